package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/walletauthtest"
)

func init() { workers["client"] = clientWorker }

// clientWorker is a program that calls the API all the time, 25 times a second,
// until it hears something. It says what fails, and in the end how much it
// sent.
func clientWorker(w *workerSide) error {
	transport := &walletauth.Transport{Store: w.store(), ProjectID: "project", BaseURL: w.args[0]}
	client := &http.Client{Transport: transport, Timeout: patience}
	every := time.NewTicker(40 * time.Millisecond)
	defer every.Stop()
	fmt.Println("started")
	for sent := 0; ; sent++ {
		select {
		case <-w.lines:
			fmt.Println("sent", sent)
			return transport.Shutdown(w.context())
		case <-every.C:
			if err := listWallets(client, w.args[0]); err != nil {
				fmt.Println("failed:", err)
			}
		}
	}
}

func listWallets(client *http.Client, url string) error {
	res, err := client.Get(url + "/wallets")
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return errors.Join(err, res.Body.Close())
}

// Twenty processes, 5 in short runs, share one session whose tokens live 2
// seconds. After each refresh one of them is killed and started again. The API, which
// ends a session whose refresh token comes twice, sees one client that
// refreshes when it is due.
func TestTwentyProcessesShareOneSession(t *testing.T) {
	const (
		ttl      = 2 * time.Second
		earliest = ttl * 4 / 5 // a fifth of its life before its end
	)
	fleet, kills := 20, 8
	if testing.Short() {
		fleet, kills = 5, 2
	}
	srv := walletauthtest.NewServer(walletauthtest.Config{ProjectID: "project", AccessTokenTTL: ttl, TB: t})
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	login := srv.Login("user")
	must(t, walletauth.Save(t.Context(), st, "", login))

	began := time.Now()
	running := make([]*process, fleet)
	for i := range running {
		running[i] = start(t, "client", dir, srv.URL)
	}
	for _, p := range running {
		p.expect("started")
	}
	stopReading := readFreshAllTheTime(t, dir)
	for n := range kills {
		awaitRefreshes(t, srv, n+1)
		i := rand.N(fleet)
		killBetweenRefreshes(t, st, running[i])
		running[i] = start(t, "client", dir, srv.URL)
		running[i].expect("started")
	}
	for _, p := range running {
		p.say("stop")
	}
	sent := 0
	for _, p := range running {
		sent += sentBy(t, p)
	}
	took := time.Since(began)
	reads := stopReading()

	stats := srv.Stats()
	t.Logf("%d processes, %d kills, %v: %d requests arrived, %d of those that lived to tell; %d refreshes; %d answers 401; the file was read %d times",
		fleet, kills, took.Round(time.Millisecond), stats.Requests, sent, stats.Refreshes, stats.Unauthorized, reads)
	if stats.Reuses != 0 || stats.RefreshesRefused != 0 {
		t.Errorf("%d used refresh tokens came back, %d refreshes were refused", stats.Reuses, stats.RefreshesRefused)
	}
	if most := int(took/earliest) + 1; stats.Refreshes > most {
		t.Errorf("%d refreshes, and lifetimes explain %d", stats.Refreshes, most)
	}
	checkStoredLast(t, srv, st, login)
}

// awaitRefreshes returns when there have been n.
func awaitRefreshes(t *testing.T, srv *walletauthtest.Server, n int) {
	t.Helper()
	every := time.NewTicker(5 * time.Millisecond)
	defer every.Stop()
	for deadline := time.After(patience); srv.Stats().Refreshes < n; {
		select {
		case <-every.C:
		case <-deadline:
			t.Fatalf("%d refreshes in %v, want %d", srv.Stats().Refreshes, patience, n)
		}
	}
}

// checkStoredLast demands that the session is still the one of the login, and
// that the file holds what was issued last.
func checkStoredLast(t *testing.T, srv *walletauthtest.Server, st *filestore.Store, login *walletauth.Session) {
	t.Helper()
	now := srv.Sessions("user")
	if len(now) != 1 || now[0].ID != login.ID {
		t.Fatalf("the session is not the one of the login any more: %v", now)
	}
	if s, err := st.Load(t.Context(), ""); err != nil || s.RefreshToken != now[0].RefreshToken {
		t.Errorf("the file does not hold what was issued last: %v", err)
	}
}

// killBetweenRefreshes kills a process by SIGKILL while no refresh is in
// flight, since none can be: this Update has the key.
func killBetweenRefreshes(t *testing.T, st *filestore.Store, p *process) {
	t.Helper()
	must(t, st.Update(t.Context(), "", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		p.kill()
		return s, nil
	}))
	for line := range p.lines {
		t.Errorf("a process, before it was killed: %s", line)
	}
}

// sentBy returns how many requests a process sent, at its end.
func sentBy(t *testing.T, p *process) (sent int) {
	t.Helper()
	for {
		line, ok := p.line()
		if !ok {
			t.Fatal("a process ended and did not say how much it sent")
		}
		if _, err := fmt.Sscanf(line, "sent %d", &sent); err == nil {
			must(t, p.wait())
			return sent
		}
		t.Errorf("a process: %s", line)
	}
}

// readFreshAllTheTime reads the file itself some hundred times a second, by a
// Store that remembers nothing.
func readFreshAllTheTime(t *testing.T, dir string) (stop func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	reads := make(chan int, 1)
	go func() {
		every := time.NewTicker(2 * time.Millisecond)
		defer every.Stop()
		for count := 0; ; count++ {
			s, err := (&filestore.Store{Dir: dir}).Load(context.Background(), "")
			if err != nil || s.UserID != "user" {
				t.Errorf("the file, meanwhile: %v, %v", s, err)
			}
			select {
			case <-every.C:
			case <-ctx.Done():
				reads <- count
				return
			}
		}
	}()
	return func() int { cancel(); return <-reads }
}
