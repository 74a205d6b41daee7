package load_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// drive is the process under load: callers that send one request after the
// other.
type drive struct {
	url       string
	client    *http.Client
	transport *walletauth.Transport
	store     *walletauth.MemoryStore
	ledgers   []*ledger
	callers   [callers]caller

	going   sync.RWMutex // held for reading by who sends a request
	ended   chan struct{}
	working sync.WaitGroup
	failed  atomic.Int64
	expired atomic.Int64 // see request
}

type caller struct {
	rounds    atomic.Int64 // through the caller's own sessions
	latencies latencies
}

func newDrive(t *testing.T, api *standIn) *drive {
	t.Helper()
	d := &drive{url: api.URL, store: &walletauth.MemoryStore{}, ended: make(chan struct{})}
	d.transport = &walletauth.Transport{
		Store: d.store, BaseURL: api.URL,
		// A connection for each caller: with the default of two, most would be
		// made anew for each request. No more, so that their number is soon level;
		// refreshes behind a request wait for one.
		Base: &http.Transport{MaxConnsPerHost: callers, MaxIdleConnsPerHost: callers},
	}
	d.client = &http.Client{Transport: d.transport}
	for i, s := range api.Sessions {
		if err := walletauth.Save(t.Context(), d.store, strconv.Itoa(i), s); err != nil {
			t.Fatal(err)
		}
		d.ledgers = append(d.ledgers, newLedger(s))
	}
	api.Sessions = nil // from here on they are the store's alone
	return d
}

func (d *drive) start(t *testing.T) {
	for i := range d.callers {
		d.working.Go(func() { d.work(t, i) })
	}
}

func (d *drive) stop() {
	close(d.ended)
	d.working.Wait()
}

func (d *drive) work(t *testing.T, number int) {
	c := &d.callers[number]
	for d.round(t, c, number) {
		c.rounds.Add(1)
		select {
		case <-time.After(ttl):
		case <-d.ended:
		}
	}
}

// round uses the sessions that are this caller's own, and after every fourth
// one that all callers use. It reports whether it came to its end.
func (d *drive) round(t *testing.T, c *caller, number int) bool {
	for own := busy + number; own < len(d.ledgers); own += callers {
		if !d.goesOn() {
			return false
		}
		d.request(t, c, own)
		if own/callers%4 == 0 {
			d.request(t, c, rand.IntN(busy))
		}
	}
	return d.goesOn()
}

func (d *drive) goesOn() bool {
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// request uses a session once. A request that was under way for longer than a
// token lives may be answered 401, as its own has ended on the way: on a machine
// that stood still for so long that is nobody's fault, and it is counted apart.
func (d *drive) request(t *testing.T, c *caller, session int) {
	d.going.RLock()
	defer d.going.RUnlock()
	start := time.Now()
	err := d.get(t, session)
	end := time.Now()
	c.latencies.add(end.Sub(start))
	switch {
	case err == nil:
		d.ledgers[session].note(start, end)
	case end.Sub(start) >= ttl && errors.Is(err, errUnauthorized):
		d.expired.Add(1)
		d.ledgers[session].noteFailed(start, end)
	case d.failed.Add(1) < 10: // the first say enough
		t.Errorf("session %d, after %v: %v", session, end.Sub(start), err)
	}
}

func (d *drive) get(t *testing.T, session int) error {
	ctx := walletauth.WithKey(t.Context(), strconv.Itoa(session))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url+"/wallets", nil)
	if err != nil {
		return err
	}
	req.Header.Set(walletauthtest.UserHeader, fmt.Sprint("user-", session))
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		return errUnauthorized
	default:
		return fmt.Errorf("status %d", resp.StatusCode)
	}
}

var errUnauthorized = errors.New("status 401")

// rounds is how often every session has been used at least.
func (d *drive) rounds() int64 {
	least := d.callers[0].rounds.Load()
	for i := range d.callers {
		least = min(least, d.callers[i].rounds.Load())
	}
	return least
}

// mark waits until no request is under way and looks at what the process holds.
func (d *drive) mark(began time.Time) mark {
	d.going.Lock()
	defer d.going.Unlock()
	return mark{at: time.Since(began), heap: heap(), goroutines: runtime.NumGoroutine()}
}

func (d *drive) latencies() *latencies {
	var all latencies
	for i := range d.callers {
		all.merge(&d.callers[i].latencies)
	}
	return &all
}
