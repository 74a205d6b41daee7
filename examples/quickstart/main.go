// Command quickstart shows a session being kept alive.
//
// Without flags it starts a stand-in for WalletKit's API whose access tokens
// live for three seconds, and has eight workers list and create wallets through
// one http.Client. Meanwhile tokens expire, some are revoked, and for a second
// the refresh endpoint answers nothing but 503. No request should fail.
//
// With -session it does the same, gently, with a session of your own:
//
//	go run ./examples/quickstart -session login.json -base-url https://testnet.walletkit.com
//
// where login.json is the answer to a login. The file is rewritten whenever the
// session is refreshed, since the old refresh token may no longer work.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/examples/internal/screen"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status: 0 if all went well, 1 if a request failed or a
// session could not be saved, 2 if there was nothing to begin with.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	var target *target
	if err == nil {
		target, err = o.target()
	}
	if err != nil {
		fmt.Fprintln(stderr, "quickstart:", err)
		return 2
	}
	defer target.close()
	return drive(ctx, target, o.duration, screen.New(stdout), stderr)
}

const usage = `usage: quickstart [-for TIME] [-session FILE [-base-url URL] [-project ID] [-write]]

  -for TIME      how long to run, 1s or more (default 12s)
  -session FILE  the JSON of a login; rewritten when the session is refreshed.
                 Without it, a stand-in for the API is started.
  -base-url URL  the API (default ` + walletauth.Testnet + `)
  -project ID    the project (default: the session's)
  -write         create wallets too, not only list them
`

// options are the flags.
type options struct {
	duration                  time.Duration
	session, baseURL, project string
	write                     bool
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // one line says what is wrong, and run prints it
	flags.DurationVar(&o.duration, "for", 12*time.Second, "")
	flags.StringVar(&o.session, "session", "", "")
	flags.StringVar(&o.baseURL, "base-url", "", "")
	flags.StringVar(&o.project, "project", "", "")
	flags.BoolVar(&o.write, "write", false, "")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	return o, o.check(flags.NArg())
}

// check says what is wrong with the flags. It quotes no value: what was meant
// for a file may be the session itself.
func (o options) check(rest int) error {
	switch {
	case rest > 0:
		return errors.New("all arguments are flags: see -h")
	case o.duration < time.Second:
		return errors.New("-for takes a second or more, as in -for 1m")
	case o.session == "" && (o.baseURL != "" || o.project != "" || o.write):
		return errors.New("-base-url, -project and -write need -session, the JSON of a login")
	default:
		return nil
	}
}

// target returns what the run is against.
func (o options) target() (*target, error) {
	if o.session == "" {
		return standIn(o.duration)
	}
	file, err := openSession(o.session)
	if err != nil {
		return nil, err
	}
	t := &target{
		baseURL: cmp.Or(o.baseURL, walletauth.Testnet), project: o.project, store: file.store(),
		workers: 1, pause: time.Second, // as gentle as somebody who reloads a page
		close: func() {},
	}
	if o.write {
		t.writeEvery = 5
	}
	return t, t.check()
}
