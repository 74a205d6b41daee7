package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"github.com/walletauth/walletauth/cmd/walletauth/internal/proxy"
)

func (a *app) execCommand() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "exec [--verbose] -- COMMAND [ARGUMENT...]",
		Short: "Run a program that finds WalletKit at $WALLETKIT_BASE_URL, the token added",
		Long: `Run a program with an address in WALLETKIT_BASE_URL that stands for WalletKit's
and adds the session's token, for as long as the program runs and however often
tokens change. The program gets no token, and needs no header but its own
Content-Type. WALLETKIT_PROJECT_ID holds the project.

Signals are passed on, and the exit code is the program's; 128 and the signal's
number if a signal ended it; 127 if it was not found and 126 if it cannot be run.
Before it runs, 3, 4 and 5 mean what they mean for all commands.`,
		Example: `  walletauth exec -- sh -c 'curl -s $WALLETKIT_BASE_URL/wallets'
  walletauth exec -- python3 report.py`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return wrongUse(cmd, errors.New("exec needs a command"))
			}
			return a.use(cmd.Context(), func(ctx context.Context, s *session) error {
				return a.exec(ctx, s, args, verbose)
			})
		},
	}
	cmd.Flags().SetInterspersed(false) // the flags of COMMAND are its own
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print a line for each request to standard error")
	return cmd
}

func (a *app) exec(ctx context.Context, s *session, args []string, verbose bool) error {
	if err := interruptibly(ctx, func(ctx context.Context) error {
		_, err := s.current(ctx, a.err)
		return err
	}); err != nil {
		return err
	}
	p, l, err := a.listen(s, "127.0.0.1:0", verbose)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- p.Serve(serving, l, 0) }() // its reader has gone by then
	code, err := runChild(args, childEnv(os.Environ(), p, s.profile))
	stop()
	if err := errors.Join(err, <-served); err != nil {
		return err
	}
	return silent(code)
}

// interruptibly is interruptible for the part of exec before there is a child,
// to which signals belong afterwards.
func interruptibly(ctx context.Context, fn func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	err := fn(ctx)
	if err != nil && ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// childEnv is the environment of the child: the address, and no token. Where a
// proxy of the network's is set, the address is kept from it, since it would
// see the secret.
func childEnv(env []string, p *proxy.Proxy, profile *profile) []string {
	env = append(env, "WALLETKIT_BASE_URL="+p.URL(), "WALLETKIT_PROJECT_ID="+profile.Project)
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		direct := "127.0.0.1"
		if set := os.Getenv(name); set != "" {
			direct = set + "," + direct
		}
		env = append(env, name+"="+direct)
	}
	return env
}

// runChild runs a program to its end and returns its exit code.
func runChild(args, env []string) (code int, err error) {
	child := exec.Command(args[0], args[1:]...)
	child.Env = env
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return 0, startFailure(args[0], err)
	}
	ended := make(chan struct{})
	go passOn(signals, child.Process, ended)
	err = child.Wait()
	close(ended)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return exitCode(child.ProcessState), nil
}

func passOn(signals <-chan os.Signal, child *os.Process, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case sig := <-signals:
			if !reachesChildAnyway(sig) {
				_ = child.Signal(sig) // it may have ended just now
			}
		}
	}
}

func startFailure(name string, err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &failure{exitNotFound, fmt.Errorf("the command %s was not found", name)}
	}
	cause := err.Error()
	var onPath *fs.PathError
	if errors.As(err, &onPath) {
		cause = onPath.Err.Error()
	}
	return &failure{exitNotRunnable, fmt.Errorf("the command %s cannot be run: %s", name, strings.TrimPrefix(cause, "exec: "))}
}
