package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/walletauth/walletauth"
)

type loginOptions struct {
	anonymous bool
	email     string
	api       string
	project   string
	keyFile   string
	insecure  bool
	keyring   bool
}

func (a *app) loginCommand() *cobra.Command {
	var o loginOptions
	cmd := &cobra.Command{
		Use:   "login (--email ADDRESS | --anonymous) [--project ID] [--api testnet]",
		Short: "Log in, and keep the session for all later commands",
		Long: `Log in to WalletKit and keep the session, sealed by a key that the system's
keyring holds. With --email a code is sent to that address and asked for; where
there is no terminal it is read from standard input.

The profile remembers API, project and how the session is sealed, so that later
commands need none of the flags.

A login replaces the session that the profile had. WalletKit ends the old one
when it expires; walletauth logout before the login ends it at once.`,
		Example: `  walletauth login --email ada@example.com --project my-project
  walletauth login --anonymous --profile play --project my-project --api mainnet`,
		Args: exactArgs(0),
	}
	cmd.Flags().StringVar(&o.email, "email", "", "log in as the user with this `ADDRESS`, by a code that is sent there")
	cmd.Flags().BoolVar(&o.anonymous, "anonymous", false, "log in as a new user without a name")
	cmd.Flags().StringVar(&o.api, "api", "", "testnet, mainnet or a `URL` (default: the profile's, else testnet)")
	cmd.Flags().StringVar(&o.project, "project", "", "`ID` of the project (default: the profile's)")
	cmd.Flags().StringVar(&o.keyFile, "key-file", "", "seal the session by the key in `FILE`, made if missing, instead of the keyring")
	cmd.Flags().BoolVar(&o.insecure, "insecure-storage", false, "do not seal the session: who can read your files can use it")
	cmd.Flags().BoolVar(&o.keyring, "keyring", false, "seal the session by the keyring again (default of a new profile)")
	cmd.RunE = interruptible(func(cmd *cobra.Command, _ []string) error { return a.login(cmd, o) })
	return cmd
}

// storages is how many ways to keep the session were asked for.
func (o *loginOptions) storages() (n int) {
	for _, asked := range []bool{o.keyring, o.insecure, o.keyFile != ""} {
		if asked {
			n++
		}
	}
	return n
}

func (a *app) login(cmd *cobra.Command, o loginOptions) error {
	if o.anonymous == (o.email != "") {
		return wrongUse(cmd, errors.New("login needs either --email ADDRESS or --anonymous"))
	}
	if o.storages() > 1 {
		return wrongUse(cmd, errors.New("--keyring, --key-file and --insecure-storage exclude each other"))
	}
	p, err := a.profileFor(cmd, o)
	if err != nil {
		return err
	}
	// Before anything is asked of WalletKit: a session that cannot be kept
	// would be lost.
	store, err := openStore(p)
	if err != nil {
		return err
	}
	s := newSession(p, store)
	account, err := a.authenticate(cmd.Context(), s, o)
	if err != nil {
		return err
	}
	before, err := store.Load(cmd.Context(), p.key())
	if err != nil {
		before = nil // nobody was logged in, or with another key
	}
	if err := p.save(); err != nil {
		return fmt.Errorf("the profile cannot be stored: %w", err)
	}
	if err := walletauth.Save(cmd.Context(), store, p.key(), account); err != nil {
		return fmt.Errorf("the session cannot be stored: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "Logged in to %s as %s, project %s, profile %s, %s.\n",
		p.host(), printable(account.UserID), p.Project, p.Name, p.sealedBy())
	if before != nil && before.UserID != account.UserID {
		_, _ = fmt.Fprintf(a.err, "The session of %s was replaced. To keep both, log in with another --profile.\n", printable(before.UserID))
	}
	return err
}

// profileFor is the stored profile with what the flags change. API and project
// change only while nobody is logged in: the old session would stay behind.
func (a *app) profileFor(cmd *cobra.Command, o loginOptions) (*profile, error) {
	p, err := loadProfile(a.profileName)
	if errors.Is(err, fs.ErrNotExist) {
		p, err = &profile{Name: a.profileName, API: walletauth.Testnet, Storage: inKeyring}, nil
	}
	if err != nil {
		return nil, err
	}
	before := *p
	if err := p.change(o); err != nil {
		return nil, err
	}
	if p.Project == "" {
		return nil, wrongUse(cmd, errors.New("the first login of a profile needs --project ID, from WalletKit's dashboard"))
	}
	if before.Project != "" && p.key() != before.key() && isLoggedIn(cmd.Context(), &before) {
		return nil, failed(exitWrongUse, "the profile %s is logged in to %s, project %s: log out first, or log in with another --profile", p.Name, before.host(), before.Project)
	}
	return p, nil
}

func (p *profile) change(o loginOptions) (err error) {
	if o.api != "" {
		if p.API, err = parseAPI(o.api); err != nil {
			return err
		}
	}
	if o.project != "" {
		p.Project = o.project
	}
	if err := checkProject(p.Project); err != nil {
		return err
	}
	switch {
	case o.keyring:
		p.Storage, p.KeyFile = inKeyring, ""
	case o.insecure:
		p.Storage, p.KeyFile = inClear, ""
	case o.keyFile != "":
		p.Storage = inKeyFile
		if p.KeyFile, err = filepath.Abs(o.keyFile); err != nil {
			return err
		}
		if err := makeKeyFile(p.KeyFile); err != nil {
			return fmt.Errorf("the key file cannot be made: %w", err)
		}
	}
	return nil
}

// isLoggedIn reports whether a session is stored, readable or not.
func isLoggedIn(ctx context.Context, p *profile) bool {
	_, err := newStore(unopenable{}).Load(ctx, p.key())
	return !errors.Is(err, walletauth.ErrNoSession)
}

// authenticate returns the new session.
func (a *app) authenticate(ctx context.Context, s *session, o loginOptions) (*walletauth.Session, error) {
	account := &walletauth.Session{}
	if o.anonymous {
		return account, a.post(ctx, s, "/users/login-anonymously", struct{}{}, account)
	}
	var begun struct {
		UserID string `json:"user_id"`
	}
	if err := a.post(ctx, s, "/users/login-with-email", map[string]string{"email": o.email}, &begun); err != nil {
		return nil, err
	}
	code, err := a.askForCode(ctx, o.email)
	if err != nil {
		return nil, err
	}
	return account, a.post(ctx, s, "/users/verify-login",
		map[string]string{"user_id": begun.UserID, "verification_code": code}, account)
}

// askForCode reads a line. A read of a terminal cannot be interrupted, so it is
// left behind when ctx ends.
func (a *app) askForCode(ctx context.Context, email string) (string, error) {
	if isTerminal(a.in) {
		_, _ = fmt.Fprintf(a.err, "WalletKit has sent a code to %s.\nCode: ", printable(email))
	}
	type answer struct {
		line string
		err  error
	}
	read := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(a.in).ReadString('\n')
		read <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case got := <-read:
		code := strings.TrimSpace(got.line)
		if code == "" {
			return "", failed(exitFailed, "no code was given: run the command again for a new one, and type it or pass it to standard input")
		}
		return code, nil
	}
}

// maxAnswer is far above any answer to a login.
const maxAnswer = 1 << 20

// post sends in as JSON and reads the answer into out. The transport adds the
// project and, as these are the endpoints that log in, no token.
func (a *app) post(ctx context.Context, s *session, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.API+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	return a.err.wait(ctx, "Waiting for "+s.host(), func(context.Context) error {
		resp, err := s.transport.RoundTrip(req) // which follows no redirect with a code in its body
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }() // it was only read
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return err
		}
		if resp.StatusCode/100 != 2 {
			return refusal(s, resp, answer)
		}
		if json.Unmarshal(answer, out) != nil {
			return failed(exitUnreachable, "%s answered something that is not WalletKit's: check --api and the network (a login page of the network answers like that)", s.host())
		}
		return nil
	})
}

// refusal says what the API said, if it was the API.
func refusal(s *session, resp *http.Response, answer []byte) error {
	var said struct {
		Error string `json:"error"`
	}
	code := exitFailed
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500 {
		code = exitUnreachable
	}
	if json.Unmarshal(answer, &said) != nil || said.Error == "" {
		return failed(code, "%s answered %s to the login", s.host(), printable(resp.Status))
	}
	return failed(code, "%s refused the login: %s (%d)", s.host(), printable(said.Error), resp.StatusCode)
}
