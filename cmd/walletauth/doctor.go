package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"github.com/walletauth/walletauth"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Check what a session depends on, and say how to fix it",
		Long: `Check the profile, the folder, the key that seals the session, the session, the
way to WalletKit and this machine's clock. Each line that is not ok says how to
fix it. The exit code is 1 if one of them fails. Nothing is changed.`,
		Args: exactArgs(0),
		RunE: interruptible(func(cmd *cobra.Command, _ []string) error { return a.doctor(cmd.Context()) }),
	}
}

// diagnosis is a line of doctor.
type diagnosis struct {
	grade grade
	what  string // checked
	found string // and how to fix it
}

type grade string

const (
	ok   grade = "ok"
	warn grade = "warning"
	bad  grade = "FAILED"
)

func (a *app) doctor(ctx context.Context) error {
	failures := 0
	tell := func(d diagnosis) {
		if d.grade == bad {
			failures++
		}
		paint := map[grade]func(string) string{ok: a.err.green, warn: a.err.yellow, bad: a.err.red}[d.grade]
		mark := fmt.Sprintf("%-8s", d.grade)
		if isTerminal(a.out) {
			mark = paint(mark)
		}
		_, _ = fmt.Fprintf(a.out, "%s %-11s %s\n", mark, d.what, d.found)
	}
	p, found := a.checkProfile()
	tell(found)
	tell(checkFolder())
	tell(checkKey(p))
	tell(a.checkSession(ctx, p))
	reachable, clock := a.checkAPI(ctx, p)
	tell(reachable)
	if clock.what != "" {
		tell(clock)
	}
	if failures > 0 {
		return silent(exitFailed)
	}
	return nil
}

// checkProfile also returns what to check if there is no profile: the default.
func (a *app) checkProfile() (*profile, diagnosis) {
	p, err := loadProfile(a.profileName)
	if err == nil {
		return p, diagnosis{ok, "profile", fmt.Sprintf("%s: %s, project %s", p.Name, p.API, p.Project)}
	}
	p = &profile{Name: a.profileName, API: walletauth.Testnet, Storage: inKeyring}
	if errors.Is(err, fs.ErrNotExist) {
		return p, diagnosis{warn, "profile", a.profileName + " does not exist yet: walletauth login makes it"}
	}
	return p, diagnosis{bad, "profile", plain(err)}
}

func checkFolder() diagnosis {
	dir, err := configDir()
	if err != nil {
		return diagnosis{bad, "folder", plain(err)}
	}
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return diagnosis{ok, "folder", dir + " will be made by the first login"}
	}
	if err != nil {
		return diagnosis{bad, "folder", plain(err)}
	}
	if mode := info.Mode().Perm(); runtime.GOOS != "windows" && mode&0o077 != 0 {
		return diagnosis{bad, "folder", fmt.Sprintf("%s can be opened by other users (mode %04o): run chmod 700 %s", dir, mode, dir)}
	}
	return diagnosis{ok, "folder", dir + ", for this user alone"}
}

func checkKey(p *profile) diagnosis {
	if p.Storage == inClear {
		return diagnosis{warn, "key", "the session is not sealed: who can read your files can use it: log in again with --keyring or --key-file FILE"}
	}
	if _, err := openCodec(p); err != nil {
		return diagnosis{bad, "key", plain(err)}
	}
	if p.Storage == inKeyFile {
		return diagnosis{ok, "key", "read from " + p.KeyFile}
	}
	return diagnosis{ok, "key", "held by the keyring"}
}

// checkSession reads the session without refreshing it.
func (a *app) checkSession(ctx context.Context, p *profile) diagnosis {
	store, err := openStore(p)
	if err != nil {
		return diagnosis{bad, "session", "cannot be read before the key is fixed"}
	}
	s, err := store.Load(ctx, p.key())
	if errors.Is(err, walletauth.ErrNoSession) {
		return diagnosis{warn, "session", "nobody is logged in: run walletauth login"}
	}
	if err != nil {
		_, text := explain(err, a.profileName)
		return diagnosis{bad, "session", text}
	}
	if !s.RefreshTokenExpiresAt.IsZero() && time.Now().After(s.RefreshTokenExpiresAt) {
		return diagnosis{warn, "session", "has not been used for too long: if a command says that it is over, run walletauth login"}
	}
	return diagnosis{ok, "session", "of " + printable(s.UserID) + ", readable"}
}

const (
	doctorTimeout = 5 * time.Second
	// clockTolerance is far below the life of a token, and above what a slow
	// answer adds.
	clockTolerance = 30 * time.Second
)

// checkAPI asks for nothing in particular: any answer shows that the API can be
// reached, and its Date what time it is there.
func (a *app) checkAPI(ctx context.Context, p *profile) (reachable, clock diagnosis) {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.API+"/", nil)
	if err != nil {
		return diagnosis{bad, "network", plain(err)}, diagnosis{}
	}
	var resp *http.Response
	began := time.Now()
	err = a.err.wait(ctx, "Asking "+p.host(), func(context.Context) (err error) {
		resp, err = newBase().RoundTrip(req)
		return err
	})
	if err != nil {
		return diagnosis{bad, "network", fmt.Sprintf("%s cannot be reached: %s: check the connection, HTTPS_PROXY and the firewall", p.host(), networkCause(err))}, diagnosis{}
	}
	took := time.Since(began)
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16))
	_ = resp.Body.Close() // it was only read
	return diagnosis{ok, "network", fmt.Sprintf("%s answers in %s", p.host(), took.Round(time.Millisecond))},
		checkClock(resp.Header.Get("Date"), began.Add(took/2))
}

func checkClock(date string, now time.Time) diagnosis {
	there, err := http.ParseTime(date)
	if err != nil {
		return diagnosis{warn, "clock", "WalletKit did not say what time it is: nothing to compare with"}
	}
	off := now.Sub(there).Round(time.Second)
	switch {
	case off > clockTolerance:
		return diagnosis{warn, "clock", fmt.Sprintf("this machine is %s ahead of WalletKit: sessions work, --min-valid and what status says of tokens do not: set it by network time (timedatectl set-ntp true)", off)}
	case off < -clockTolerance:
		return diagnosis{warn, "clock", fmt.Sprintf("this machine is %s behind WalletKit: sessions work, --min-valid and what status says of tokens do not: set it by network time (timedatectl set-ntp true)", -off)}
	}
	return diagnosis{ok, "clock", "agrees with WalletKit's"}
}
