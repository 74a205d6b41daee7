package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/walletauth/walletauth/walletauthtest"
)

func (a *app) standinCommand() *cobra.Command {
	var config walletauthtest.Config
	var listen string
	var faults []string
	cmd := &cobra.Command{
		Use:   "standin [--listen ADDRESS]",
		Short: "Serve a stand-in for WalletKit's API, for tests in any language",
		Long: `Serve a stand-in for WalletKit's API until Ctrl-C: its logins, refreshes and
wallets, in memory, strict about what it is sent. A refresh token works once. The
code of every mail is ` + walletauthtest.VerificationCode + `. It is for tests and holds nothing of worth.

A test steers it by requests to paths of its own:

  POST /standin/fail     {"endpoint":"POST /users/refresh-token","times":2,"status":503}
                         also "drop":true, "after":true, "delay":"2s", "body", "header"
  POST /standin/clear    {}                                forgets what has not failed yet
  POST /standin/revoke   {"user_id":"..."}                 the access tokens
                         {"user_id":"...","session":true}  the sessions
  POST /standin/clock    {"offset":"10m"}
  GET  /standin/stats    what it has seen; "violations" is what no client should do
  GET  /standin/stream   a stream of five events, for a client with a session

--fail takes what /standin/fail takes.`,
		Example: `  walletauth standin --listen 127.0.0.1:8787 --access-ttl 3s
  walletauth login --api http://127.0.0.1:8787 --project project --anonymous`,
		Args: exactArgs(0),
	}
	flags := cmd.Flags()
	flags.StringVar(&listen, "listen", "127.0.0.1:8787", "`ADDRESS` to listen at, port 0 for any free one")
	flags.StringVar(&config.ProjectID, "project", "project", "`ID` of the project that it knows")
	flags.DurationVar(&config.AccessTokenTTL, "access-ttl", 5*time.Minute, "how long an access token works")
	flags.DurationVar(&config.RefreshTokenTTL, "refresh-ttl", 30*24*time.Hour, "how long a refresh token works")
	flags.BoolVar(&config.KeepRefreshToken, "keep-refresh-token", false, "let a refresh answer with the same refresh token")
	flags.BoolVar(&config.NewSessionID, "new-session-id", false, "give the session a new id with every refresh")
	flags.BoolVar(&config.OneAccessToken, "one-access-token", false, "end the old access token with every refresh")
	flags.DurationVar(&config.ReuseGrace, "reuse-grace", 0, "how long a used refresh token still answers as the first time")
	flags.StringSliceVar(&config.CORS, "cors", nil, "`ORIGIN` whose pages may call it from a browser; may be repeated")
	flags.StringArrayVar(&faults, "fail", nil, "fail on purpose, `JSON` as for /standin/fail; may be repeated")
	cmd.RunE = interruptible(func(cmd *cobra.Command, _ []string) error {
		s, err := newStandin(config)
		if err != nil {
			return wrongUse(cmd, err)
		}
		for _, f := range faults {
			if err := s.fail(strings.NewReader(f)); err != nil {
				return wrongUse(cmd, fmt.Errorf("--fail %s: %w", f, err))
			}
		}
		return a.serveStandin(cmd.Context(), s, listen)
	})
	return cmd
}

func (a *app) serveStandin(ctx context.Context, s *standin, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return failed(exitFailed, "cannot listen at %s: %s: choose another port, or 0 for any free one", address, innermost(err))
	}
	if _, err := fmt.Fprintf(a.out, "http://%s\n", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() {
		s.api.Close()
		_ = server.Close() // it only closes connections
	})
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil // Ctrl-C is how it ends
}

// standin is the stand-in of walletauthtest with requests that steer it.
type standin struct {
	api *walletauthtest.Server
	mux *http.ServeMux
}

// newStandin returns an error where walletauthtest panics: it is made for tests.
func newStandin(config walletauthtest.Config) (s *standin, err error) {
	defer asError(&err)
	s = &standin{api: walletauthtest.NewUnstartedServer(config), mux: http.NewServeMux()}
	s.api.Handle("GET "+streamPath, http.HandlerFunc(streamEvents))
	s.mux.HandleFunc("POST /standin/fail", steer(s.fail))
	s.mux.HandleFunc("POST /standin/clear", steer(s.clear))
	s.mux.HandleFunc("POST /standin/revoke", steer(s.revoke))
	s.mux.HandleFunc("POST /standin/clock", steer(s.setClock))
	s.mux.HandleFunc("GET /standin/stats", s.stats)
	return s, nil
}

func asError(err *error) {
	if wrong := recover(); wrong != nil {
		*err = fmt.Errorf("%v", wrong)
	}
}

// ServeHTTP leaves to the stand-in what does not steer it. A ServeMux around it
// would redirect odd paths, which the API does not.
func (s *standin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/standin/") && r.URL.Path != streamPath {
		s.mux.ServeHTTP(w, r)
		return
	}
	s.api.ServeHTTP(w, r)
}

const streamPath = "/standin/stream"

// steer answers 204, or 400 with what was wrong.
func steer(do func(io.Reader) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := do(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func decodeStrictly(r io.Reader, into any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// span is a duration in JSON, as "1m30s".
type span time.Duration

func (s *span) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	*s = span(d)
	return err
}

func (s *standin) fail(r io.Reader) (err error) {
	in := struct {
		Endpoint string            `json:"endpoint"`
		Times    int               `json:"times"`
		Status   int               `json:"status"`
		Delay    span              `json:"delay"`
		After    bool              `json:"after"`
		Drop     bool              `json:"drop"`
		Body     string            `json:"body"`
		Header   map[string]string `json:"header"`
	}{Endpoint: walletauthtest.RefreshToken, Times: 1}
	if err := decodeStrictly(r, &in); err != nil {
		return err
	}
	header := http.Header{}
	for name, value := range in.Header {
		header.Set(name, value)
	}
	defer asError(&err)
	s.api.Fail(in.Endpoint, in.Times, walletauthtest.Fault{
		Status: in.Status, Delay: time.Duration(in.Delay), After: in.After, Drop: in.Drop, Body: in.Body, Header: header,
	})
	return nil
}

func (s *standin) clear(r io.Reader) error {
	if err := decodeStrictly(r, &struct{}{}); err != nil {
		return err
	}
	s.api.ClearFaults()
	return nil
}

func (s *standin) revoke(r io.Reader) error {
	var in struct {
		UserID  string `json:"user_id"`
		Session bool   `json:"session"`
	}
	if err := decodeStrictly(r, &in); err != nil {
		return err
	}
	revoke := s.api.RevokeAccess
	if in.Session {
		revoke = s.api.RevokeSessions
	}
	if revoke(in.UserID) == 0 {
		return fmt.Errorf("user %q has no session", in.UserID)
	}
	return nil
}

func (s *standin) setClock(r io.Reader) error {
	var in struct {
		Offset span `json:"offset"`
	}
	if err := decodeStrictly(r, &in); err != nil {
		return err
	}
	s.api.SetClockOffset(time.Duration(in.Offset))
	return nil
}

func (s *standin) stats(w http.ResponseWriter, _ *http.Request) {
	stats := s.api.Stats()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{ // the client may have left
		"requests": stats.Requests, "faults": stats.Faults, "logins": stats.Logins, "logouts": stats.Logouts,
		"refreshes": stats.Refreshes, "refreshes_refused": stats.RefreshesRefused, "reuses": stats.Reuses,
		"repeats": stats.Repeats, "unauthorized": stats.Unauthorized, "violations": append([]string{}, s.api.Violations()...),
	})
}

// streamEvents is what a client reads piece by piece, to show that its proxy
// does not hold the answer back.
func streamEvents(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range 5 {
		_, _ = fmt.Fprintf(w, "data: event %d\n\n", i+1)
		if http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}
