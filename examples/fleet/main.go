// Command fleet shows several processes that share the sessions of many users,
// and what becomes of them when one is killed.
//
//	cd examples/fleet && go run .
//
// It starts a stand-in for WalletKit's API, whose access tokens live for three
// seconds, and three replicas of a service: processes of their own, each of
// which sends requests for every user. One is killed and started again. No
// request should fail, and each session should be refreshed once per lifetime,
// not once per replica.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/walletauth/walletauth/examples/internal/screen"
)

func main() {
	if os.Getenv(replicaEnv) != "" {
		os.Exit(serve(os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once, and the replicas with it
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit status: 0 if all went well, 1 if anything did not, 2 if
// there was nothing to begin with.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	var f *fleet
	if err == nil {
		f, err = newFleet(ctx, o, screen.New(stdout))
	}
	if err != nil {
		fmt.Fprintln(stderr, "fleet:", err)
		return 2
	}
	defer f.close()
	if err := f.run(ctx, o.duration); err != nil {
		fmt.Fprintln(stderr, "fleet:", err)
		return 1
	}
	return 0
}

const usage = `usage: fleet [-for TIME] [-users NUMBER] [-redis URL]

  -for TIME      how long to run, 5s or more (default 15s), and longer on a
                 machine that takes longer for a kill and a restart
  -users NUMBER  how many users there are, 1 to 100 (default 20)
  -redis URL     keep the sessions in this Redis, as in redis://localhost:6379.
                 Without it they are files in a temporary folder.
`

// options are the flags.
type options struct {
	duration time.Duration
	users    int
	redis    string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // one line says what is wrong, and run prints it
	flags.DurationVar(&o.duration, "for", 15*time.Second, "")
	flags.IntVar(&o.users, "users", 20, "")
	flags.StringVar(&o.redis, "redis", "", "")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	return o, o.check(flags.NArg())
}

func (o options) check(rest int) error {
	switch {
	case rest > 0:
		return errors.New("all arguments are flags: see -h")
	case o.duration < 5*time.Second:
		return errors.New("-for takes five seconds or more, as in -for 1m: it has to hold a kill and a restart")
	case o.users < 1 || o.users > 100:
		return errors.New("-users takes a number from 1 to 100")
	default:
		return nil
	}
}
