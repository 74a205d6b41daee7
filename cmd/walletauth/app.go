package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// app is one run of the program.
type app struct {
	in          io.Reader
	out         io.Writer
	err         *terminal
	profileName string   // --profile
	session     *session // in use; nil before there is one
}

func newApp(in, out, err *os.File) *app {
	return &app{in: in, out: out, err: newTerminal(err)}
}

// run executes one command line and returns the exit code. The one place that
// prints errors is here, so that every verb says them in the same form. What
// failed is said before the wait for what is still under way.
func (a *app) run(args []string) int {
	root := a.command()
	root.SetArgs(args)
	code := a.say(root.ExecuteContext(context.Background()))
	if a.session == nil {
		return code
	}
	if closing := a.say(a.session.close(a.err)); code == exitOK {
		return closing
	}
	return code
}

// say prints an error and returns its exit code.
func (a *app) say(err error) int {
	if err == nil {
		return exitOK
	}
	code, text := explain(err, a.profileName)
	if text != "" {
		_, _ = fmt.Fprintf(a.err, "%s %s\n", a.err.red("walletauth:"), text)
	}
	return code
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "walletauth",
		Short: "A WalletKit session for the terminal and for programs in any language",
		Long: `walletauth logs you in to WalletKit once and keeps the session alive. Tokens live
minutes, so a program gets an address that adds the token rather than the token:

  walletauth login --email ada@example.com --project my-project
  walletauth exec -- ./my-script        # finds the API at $WALLETKIT_BASE_URL

Exit codes: 0 done, 1 failed, 2 wrong use, 3 not logged in, 4 the session is
over, 5 WalletKit cannot be reached now, 130 interrupted.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return wrongUse(cmd, err) })
	root.PersistentFlags().StringVar(&a.profileName, "profile", defaultProfile(), "whose session to use, `NAME`; or set WALLETAUTH_PROFILE")
	root.AddCommand(
		a.loginCommand(), a.statusCommand(), a.tokenCommand(), a.requestCommand(),
		a.execCommand(), a.proxyCommand(), a.logoutCommand(), a.profilesCommand(),
		a.doctorCommand(), a.standinCommand(),
	)
	for _, verb := range root.Commands() {
		verb.DisableFlagsInUseLine = true // Use names them
	}
	return root
}

func defaultProfile() string {
	if name := os.Getenv("WALLETAUTH_PROFILE"); name != "" {
		return name
	}
	return "default"
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

type runFunc = func(cmd *cobra.Command, args []string) error

// interruptible gives a verb a context that ends with the first Ctrl-C. It then
// has time to store what it refreshed; the second one ends the program at once.
func interruptible(run runFunc) runFunc {
	return func(cmd *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop)
		cmd.SetContext(ctx)
		err := run(cmd, args)
		if err != nil && ctx.Err() != nil {
			return errInterrupted
		}
		return err
	}
}

// exactArgs is cobra.ExactArgs with the usage in the error.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return wrongUse(cmd, fmt.Errorf("%d arguments where %d are needed", len(args), n))
	}
}
