package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/walletauth/walletauth"
)

func (a *app) tokenCommand() *cobra.Command {
	var asHeader bool
	var minValid time.Duration
	cmd := &cobra.Command{
		Use:   "token [--header] [--min-valid DURATION]",
		Short: "Print an access token that works now",
		Long: `Print an access token, refreshed first if it is about to expire. However many
commands ask at once, the session is refreshed once.

A token lives minutes. A program that runs longer should not get one but run
under walletauth exec.`,
		Example: `  walletauth token --header | curl -H @- https://testnet.walletkit.com/wallets
  TOKEN=$(walletauth token --min-valid 2m)`,
		Args: exactArgs(0),
	}
	cmd.Flags().BoolVar(&asHeader, "header", false, "print the header lines that a request to WalletKit needs")
	cmd.Flags().DurationVar(&minValid, "min-valid", 0, "refresh unless the token is valid that long (30s, 2m)")
	cmd.RunE = interruptible(func(cmd *cobra.Command, _ []string) error {
		return a.use(cmd.Context(), func(ctx context.Context, s *session) error {
			now, err := s.validFor(ctx, a.err, minValid)
			if err != nil {
				return err
			}
			return a.printToken(now, asHeader)
		})
	})
	return cmd
}

func (a *app) printToken(s *walletauth.Session, asHeader bool) (err error) {
	if asHeader {
		_, err = fmt.Fprintf(a.out, "Authorization: Bearer %s\nX-WalletKit-Project-ID: %s\nX-WalletKit-Token-Source: walletkit\n", s.AccessToken, s.ProjectID)
	} else {
		_, err = fmt.Fprintln(a.out, s.AccessToken)
	}
	return err
}

// validFor returns a session whose access token is valid for another least. One
// refresh has to be enough: a token that lives shorter than that never is.
func (s *session) validFor(ctx context.Context, t *terminal, least time.Duration) (*walletauth.Session, error) {
	now, err := s.current(ctx, t)
	if err != nil || least <= 0 || time.Until(now.AccessTokenExpiresAt) >= least {
		return now, err
	}
	err = t.wait(ctx, "Waiting for "+s.host(), func(ctx context.Context) (err error) {
		now, err = s.transport.Renew(ctx, now)
		return err
	})
	if err != nil {
		return nil, err
	}
	if left := time.Until(now.AccessTokenExpiresAt); left < least {
		return nil, failed(exitFailed, "even a new token is valid for %s only, not %s: ask for less, and see walletauth doctor whether this machine's clock is right", left.Round(time.Second), least)
	}
	return now, nil
}
