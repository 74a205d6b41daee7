package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/walletauth/walletauth"
)

// report is what status says, in the form of --json. The names are part of the
// interface.
type report struct {
	State                 string     `json:"state"` // one of the constants below
	Profile               string     `json:"profile"`
	API                   string     `json:"api,omitempty"`
	Project               string     `json:"project,omitempty"`
	UserID                string     `json:"user_id,omitempty"`
	SessionID             string     `json:"session_id,omitempty"`
	AccessTokenExpiresAt  *time.Time `json:"access_token_expires_at,omitempty"`
	RefreshTokenExpiresAt *time.Time `json:"refresh_token_expires_at,omitempty"`
	Storage               string     `json:"storage,omitempty"`
	KeyFile               string     `json:"key_file,omitempty"`
	Unsaved               bool       `json:"unsaved"`
	LastError             string     `json:"last_error,omitempty"`
	RetryAt               *time.Time `json:"retry_at,omitempty"`
}

const (
	loggedIn    = "logged in"
	notLoggedIn = "not logged in"
	over        = "over"
	unknown     = "unknown" // WalletKit had to be asked and could not be
)

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status [--json]",
		Short: "Say who is logged in, where, and for how long",
		Long: `Say who is logged in, where, and for how long. A session whose access token has
expired is refreshed first, which is how an end of the session is noticed.

Exit codes: 0 logged in, 3 not logged in, 4 the session is over, 5 WalletKit had
to be asked and could not be reached.`,
		Args: exactArgs(0),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = interruptible(func(cmd *cobra.Command, _ []string) error { return a.status(cmd.Context(), asJSON) })
	return cmd
}

func (a *app) status(ctx context.Context, asJSON bool) error {
	r := &report{State: notLoggedIn, Profile: a.profileName}
	err := a.use(ctx, func(ctx context.Context, s *session) error {
		r.API, r.Project, r.Storage, r.KeyFile = s.API, s.Project, s.Storage, s.KeyFile
		_, err := s.current(ctx, a.err)
		status, statusErr := s.transport.Status(ctx)
		if statusErr == nil {
			r.add(status, a.profileName)
		}
		return err
	})
	code, text := exitOK, ""
	if err != nil {
		code, text = explain(err, a.profileName)
	}
	switch code {
	case exitOK:
		r.State = loggedIn
	case exitNotLoggedIn:
		r.State = notLoggedIn
	case exitOver:
		r.State = over
	case exitUnreachable:
		r.State = unknown
	default:
		return err
	}
	if code != exitOK && r.LastError == "" && code != exitNotLoggedIn {
		r.LastError = text
	}
	if asJSON {
		return errors.Join(silent(code), a.printJSON(r))
	}
	r.print(a.out, text)
	return silent(code)
}

// silent is an exit code about which everything has been said.
func silent(code int) error {
	if code == exitOK {
		return nil
	}
	return &failure{code: code}
}

func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (r *report) add(status walletauth.Status, profile string) {
	r.Unsaved = status.Unsaved
	if s := status.Session; s != nil {
		r.UserID, r.SessionID = s.UserID, s.ID
		r.AccessTokenExpiresAt, r.RefreshTokenExpiresAt = &s.AccessTokenExpiresAt, &s.RefreshTokenExpiresAt
	}
	if status.LastError != nil {
		_, r.LastError = explain(status.LastError, profile)
	}
	if !status.RetryAt.IsZero() {
		r.RetryAt = &status.RetryAt
	}
}

func (r *report) print(w io.Writer, text string) {
	p := &profile{API: r.API, Storage: r.Storage, KeyFile: r.KeyFile}
	switch r.State {
	case loggedIn:
		_, _ = fmt.Fprintf(w, "Logged in to %s as %s\n", p.host(), printable(r.UserID))
	default:
		_, _ = fmt.Fprintln(w, strings.ToUpper(text[:1])+text[1:])
	}
	line(w, "Profile", r.Profile)
	if r.API != "" {
		line(w, "API", r.API)
		line(w, "Project", r.Project)
		line(w, "Kept", p.sealedBy())
	}
	if r.SessionID != "" {
		line(w, "Session", printable(r.SessionID))
		line(w, "Access token", until(r.AccessTokenExpiresAt))
		line(w, "Refresh token", until(r.RefreshTokenExpiresAt))
	}
	if r.Unsaved {
		line(w, "Stored", "no: see walletauth doctor")
	}
	if r.LastError != "" && r.LastError != text {
		line(w, "Last failure", r.LastError)
	}
}

func line(w io.Writer, name, value string) { _, _ = fmt.Fprintf(w, "  %-14s %s\n", name, value) }

// until says when t is, in words and by the clock.
func until(t *time.Time) string {
	left := time.Until(*t)
	if left <= 0 {
		return "expired at " + t.Local().Format(time.DateTime)
	}
	return fmt.Sprintf("valid for %s, until %s", inUnits(left), t.Local().Format(time.DateTime))
}

func inUnits(d time.Duration) string {
	if d >= 48*time.Hour {
		return fmt.Sprintf("%d days", d.Round(24*time.Hour)/(24*time.Hour))
	}
	return d.Round(time.Second).String()
}
