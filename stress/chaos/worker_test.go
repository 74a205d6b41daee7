//go:build linux

package chaos_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

const orderEnv = "WALLETAUTH_CHAOS_ORDER"

// order is what a worker is to do.
type order struct {
	Name  string // the stand-in tells workers apart by it
	Store string // a name in stores
	Place string
	Lease time.Duration
	Twist string // a name in twists: what is wrong with the store on purpose
	URL   string // of the stand-in
	Keys  []string
	Every time.Duration // a request for each key, on average
}

const enough = 5 * time.Second // for a request; programs do not wait for ever

// worker is a program that sends requests for many users, all the time.
type worker struct {
	order
	client    *http.Client
	transport *walletauth.Transport
	journal   *journal
}

func work(text string) int {
	var o order
	err := json.Unmarshal([]byte(text), &o)
	var w *worker
	if err == nil {
		w, err = newWorker(o)
	}
	if err == nil {
		err = w.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func newWorker(o order) (*worker, error) {
	store, err := stores[o.Store](o.Place, o.Lease)
	if err != nil {
		return nil, err
	}
	if o.Twist != "" {
		store = twists[o.Twist](store)
	}
	w := &worker{order: o, journal: &journal{out: os.Stdout}}
	w.transport = &walletauth.Transport{
		Store: &watched{store, w.journal}, BaseURL: o.URL, Base: newSigned(o.Name), OnEvent: w.journal.event,
	}
	w.client = &http.Client{Transport: w.transport}
	return w, nil
}

// run sends requests until it hears "stop". When standard input ends without,
// then the test has ended, and so does the worker.
func (w *worker) run() error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var all sync.WaitGroup
	for _, key := range w.Keys {
		all.Go(func() { w.use(ctx, key) })
	}
	w.journal.say("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "check":
			go w.check(ctx)
		case "stop":
			stop()
			all.Wait()
			err := w.transport.Shutdown(context.Background())
			w.journal.say("stopped")
			return err
		}
	}
	return errors.New("the test has ended")
}

func (w *worker) use(ctx context.Context, key string) {
	for pause(ctx, rand.N(2*w.Every)) {
		if failure := w.request(key); failure != "" {
			w.journal.say("failed", key, failure)
		} else {
			w.journal.say("ok")
		}
	}
}

// check says when each key has worked.
func (w *worker) check(ctx context.Context) {
	var all sync.WaitGroup
	for _, key := range w.Keys {
		all.Go(func() {
			for w.request(key) != "" && pause(ctx, w.Every) {
			}
		})
	}
	all.Wait()
	w.journal.say("works")
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// request sends one request and returns what kind of failure it met.
func (w *worker) request(key string) (failure string) {
	ctx, cancel := context.WithTimeout(walletauth.WithKey(context.Background(), key), enough)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/wallets", nil)
	if err != nil {
		return err.Error()
	}
	req.Header.Set(walletauthtest.UserHeader, key)
	resp, err := w.client.Do(req)
	if err != nil {
		return kind(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return kind(err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprint("status ", resp.StatusCode)
	}
	return ""
}

const (
	noSession   = "no session"
	sessionOver = "session over"
)

func kind(err error) string {
	var refused *walletauth.RefreshError
	switch {
	case errors.Is(err, walletauth.ErrNoSession):
		return noSession
	case errors.Is(err, walletauth.ErrSessionExpired):
		return sessionOver
	case errors.As(err, &refused) && refused.StatusCode != 0:
		return fmt.Sprint("refresh answered ", refused.StatusCode)
	case errors.As(err, &refused):
		return "refresh not answered"
	case errors.Is(err, context.DeadlineExceeded):
		return "out of time"
	case strings.Contains(err.Error(), "walletauth: "):
		return "no exclusion, or no session to be loaded"
	default:
		return "connection"
	}
}

// signed is a base transport that tells whose requests they are, refreshes
// included.
type signed struct {
	name string
	base http.Transport
}

func newSigned(name string) *signed {
	return &signed{name, http.Transport{MaxIdleConnsPerHost: 100}}
}

func (s *signed) RoundTrip(req *http.Request) (*http.Response, error) {
	own := req.Clone(req.Context())
	own.Header.Set("User-Agent", s.name)
	return s.base.RoundTrip(own)
}

// journal is what a worker writes down as it happens. It is a pipe, and so
// survives the worker.
type journal struct {
	mu  sync.Mutex // guards out
	out io.Writer
}

func (j *journal) say(words ...string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = fmt.Fprintln(j.out, strings.Join(words, "\t")) // if it fails, the test has ended
}

// event tells why a refresh or a save failed, in one line.
func (j *journal) event(_ context.Context, e walletauth.Event) {
	if e.Err != nil {
		j.say("event", e.Key, string(e.Type)+": "+strings.Join(strings.Fields(e.Err.Error()), " "))
	}
}

// watched writes down what a store is given to hold, and what it took.
type watched struct {
	walletauth.TokenStore
	journal *journal
}

func (w *watched) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	var given *walletauth.Session
	err := w.TokenStore.Update(ctx, key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, current)
		if given = nil; err == nil && next != current {
			given = next
			w.journal.say("got", key, mark(next.RefreshToken))
		}
		return next, err
	})
	switch {
	case given == nil:
	case err == nil:
		w.journal.say("saved", key, mark(given.RefreshToken))
	default:
		w.journal.say("unsaved", key, mark(given.RefreshToken))
	}
	return err
}

// mark stands for a token in what is printed.
func mark(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:6])
}
