package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// This file is what runs in a replica.

// replicaEnv makes the program a replica.
const replicaEnv = "WALLETAUTH_FLEET_REPLICA"

// order is what a replica is to do. It comes on standard input and not in the
// environment, where others could read the password of a Redis.
type order struct {
	URL, Project string
	Users        []string
	Place        place
}

// report is what a replica has done so far: a line of JSON on standard output
// every fifth of a second, and a last one at the end.
type report struct {
	Requests, Failed   int
	Refreshes, Adopted int
	Trouble            string // why the first request failed
}

const reportEvery = 200 * time.Millisecond

// serve runs a replica until stdin is closed. That is also how it ends when
// whoever started it is no more, so that none is ever left behind.
func serve(stdin io.Reader, stdout, stderr io.Writer) int {
	signal.Ignore(os.Interrupt) // a Ctrl-C is for the program that started it
	if err := serveOrder(stdin, stdout); err != nil {
		fmt.Fprintln(stderr, "fleet: replica:", err)
		return 1
	}
	return 0
}

func serveOrder(stdin io.Reader, stdout io.Writer) error {
	var o order
	if err := json.NewDecoder(stdin).Decode(&o); err != nil {
		return fmt.Errorf("no order came: %w", err)
	}
	store, closeStore, err := o.Place.open(true)
	if err != nil {
		return err
	}
	defer closeStore()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, stdin) // an error is an end too
		cancel()
	}()
	return newService(o, store).run(ctx, stdout)
}

// service is one Transport and one client for all users.
type service struct {
	order
	transport *walletauth.Transport
	client    *http.Client

	mu   sync.Mutex // guards what follows
	done report
}

func newService(o order, store walletauth.TokenStore) *service {
	s := &service{order: o}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.MaxIdleConnsPerHost = len(o.Users)
	s.transport = &walletauth.Transport{
		Store: store, BaseURL: o.URL, ProjectID: o.Project, Base: base, OnEvent: s.onEvent,
	}
	s.client = &http.Client{Transport: s.transport, Timeout: 30 * time.Second}
	return s
}

// run returns when every request that was sent has come back and every session
// is stored.
func (s *service) run(ctx context.Context, stdout io.Writer) error {
	defer s.client.CloseIdleConnections()
	var all sync.WaitGroup
	for _, user := range s.Users {
		all.Go(func() { s.workFor(ctx, user) })
	}
	out := json.NewEncoder(stdout)
	for sleep(ctx, reportEvery) {
		_ = out.Encode(s.soFar()) // who does not listen any more has closed stdin too
	}
	all.Wait()
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.transport.Shutdown(end)
	return errors.Join(err, out.Encode(s.soFar()))
}

// workFor sends a user's requests, ten in a second on average. The pauses
// differ, or the replicas would keep the order in which they began.
func (s *service) workFor(ctx context.Context, user string) {
	for sleep(ctx, 50*time.Millisecond+rand.N(100*time.Millisecond)) {
		s.count(s.request(ctx, user))
	}
}

// request is not ended by the end of the run: that would look like a failure
// and be none.
func (s *service) request(ctx context.Context, user string) error {
	ctx = walletauth.WithKey(context.WithoutCancel(ctx), user)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/wallets", nil)
	if err != nil {
		return err
	}
	req.Header.Set(walletauthtest.UserHeader, user) // the stand-in compares it with the token
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return err
}

func (s *service) count(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done.Requests++
	if err == nil {
		return
	}
	s.done.Failed++
	if s.done.Trouble == "" {
		s.done.Trouble = err.Error()
	}
}

func (s *service) onEvent(_ context.Context, e walletauth.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Type {
	case walletauth.RefreshSucceeded:
		s.done.Refreshes++
	case walletauth.SessionAdopted:
		s.done.Adopted++
	}
}

func (s *service) soFar() report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

// sleep waits for d and reports whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
