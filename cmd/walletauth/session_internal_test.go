package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
)

// Who waits at a terminal is told after 5 seconds that there is no network, in
// whichever way it is missing, and then gets the prompt back. An answer that may
// hold a new session is waited for.
func TestSessionWait(t *testing.T) {
	renewed := &walletauth.Session{
		ID: "session", ProjectID: "project", UserID: "ada", CreatedAt: time.Now(),
		AccessToken: "access-2", AccessTokenExpiresAt: time.Now().Add(time.Hour * 1e5),
		RefreshToken: "refresh-2", RefreshTokenExpiresAt: time.Now().Add(time.Hour * 1e6),
	}
	for name, row := range map[string]struct {
		answer       network
		interrupt    time.Duration // of the user, if not 0
		waits        time.Duration // until there is a session, or a sentence
		closes       time.Duration // at most, until the program ends after that
		stored, says string
	}{
		"packets are swallowed": {
			answer: network{after: connectTimeout, err: &net.OpError{Op: "dial", Err: timeoutError{}}},
			waits:  5 * time.Second, closes: connectTimeout, says: "it did not answer in time", // one attempt is under way
		},
		"connections are refused": {
			answer: network{err: &net.OpError{Op: "dial", Err: errors.New("connection refused")}},
			waits:  5 * time.Second, says: "connection refused",
		},
		"connections are closed": {
			answer: network{err: io.EOF},
			waits:  5 * time.Second, says: "it closed the connection without an answer",
		},
		"the API is overloaded": {
			answer: network{status: http.StatusServiceUnavailable},
			waits:  5 * time.Second, says: "it answered 503",
		},
		"a slow answer is waited for": {
			answer: network{after: 8 * time.Second, status: http.StatusOK, session: renewed},
			waits:  8 * time.Second, stored: "access-2",
		},
		"an answer under way at Ctrl-C is stored": {
			answer:    network{after: 4 * time.Second, status: http.StatusOK, session: renewed},
			interrupt: time.Second, waits: time.Second, closes: 3 * time.Second, stored: "access-2", says: "interrupted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, terminal := &walletauth.MemoryStore{}, &terminal{file: io.Discard}
				s := newSession(&profile{Name: "default", API: walletauth.Testnet, Project: "project"}, store)
				s.base.RoundTripper = row.answer
				expired := *renewed
				expired.AccessToken, expired.AccessTokenExpiresAt = "access-1", time.Now().Add(-time.Minute)
				if err := walletauth.Save(t.Context(), store, s.key(), &expired); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if row.interrupt > 0 {
					time.AfterFunc(row.interrupt, cancel)
				}

				began := time.Now()
				_, err := s.current(ctx, terminal)
				if waited := time.Since(began); waited != row.waits {
					t.Errorf("waited %s, want %s", waited, row.waits)
				}
				if said := sentence(err); !strings.Contains(said, row.says) || (err == nil) != (row.says == "") {
					t.Errorf("said %q, want %q", said, row.says)
				}

				began = time.Now()
				if err := s.close(terminal); err != nil {
					t.Error(err)
				}
				if waited := time.Since(began); waited > row.closes {
					t.Errorf("ended after %s, want at most %s", waited, row.closes)
				}
				if now, err := store.Load(t.Context(), s.key()); row.stored != "" && (err != nil || now.AccessToken != row.stored) {
					t.Errorf("stored %v, %v", now, err)
				}
				time.Sleep(time.Minute) // the program would have ended; here the refresh has to
			})
		})
	}
}

func sentence(err error) string {
	if err == nil {
		return ""
	}
	_, text := explain(err, "default")
	return text
}

// network answers every request in the same way.
type network struct {
	after   time.Duration
	err     error
	status  int
	session *walletauth.Session
}

func (n network) RoundTrip(req *http.Request) (*http.Response, error) {
	time.Sleep(n.after)
	if n.err != nil {
		return nil, n.err
	}
	body, err := json.Marshal(n.session)
	return &http.Response{
		StatusCode: n.status, Request: req, Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(string(body))),
	}, err
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }
