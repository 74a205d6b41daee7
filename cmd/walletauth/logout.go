package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"
	"github.com/walletauth/walletauth"
)

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "logout",
		Short: "Forget the session, and tell WalletKit to end it",
		Long: `Forget the session here, then tell WalletKit to end it. If WalletKit cannot be
told, the session is forgotten all the same and the exit code is 5.`,
		Args: exactArgs(0),
		RunE: interruptible(func(cmd *cobra.Command, _ []string) error { return a.logout(cmd.Context()) }),
	}
}

func (a *app) logout(ctx context.Context) error {
	p, err := loadProfile(a.profileName)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !isLoggedIn(ctx, p) {
		_, err = fmt.Fprintf(a.out, "Nobody was logged in to profile %s.\n", a.profileName)
		return err
	}
	if err != nil {
		return err
	}
	s := openForLogout(p)
	a.session = s
	err = a.err.wait(ctx, "Waiting for "+p.host(), s.transport.Logout)
	if _, left := s.store.Load(ctx, p.key()); !errors.Is(left, walletauth.ErrNoSession) {
		return err // nil if the store will take the logout at the end
	}
	if err != nil {
		_, text := explain(err, a.profileName)
		return failed(exitUnreachable, "logged out here, but WalletKit could not be told to end the session: %s", text)
	}
	_, err = fmt.Fprintf(a.out, "Logged out of %s, profile %s.\n", p.host(), p.Name)
	return err
}

// openForLogout opens the session also where its key cannot be had: it is to
// be forgotten, and needs no reading for that.
func openForLogout(p *profile) *session {
	store, err := openStore(p)
	if err != nil {
		store = newStore(unopenable{})
	}
	return newSession(p, store)
}
