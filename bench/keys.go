package main

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/walletauth/walletauth"
)

// keys is sessions that all have expired and all send a request at once.
type keys struct {
	Keys       int     `json:"keys"`
	Refreshes  int     `json:"refreshes"`
	PerSecond  float64 `json:"refreshes_per_second"` // by a refresher that costs nothing
	Goroutines float64 `json:"goroutines_each"`      // while all are under way or queue, beside the caller's own
	Bytes      float64 `json:"bytes_each"`           // then, beside the caller's own
}

func measureKeys(rounds int, sizes []int) ([]keys, error) {
	var results []keys
	for _, n := range sizes {
		k := keys{Keys: n}
		var rates []float64
		for range rounds {
			if err := k.race(n, &rates); err != nil {
				return nil, err
			}
		}
		k.PerSecond = median(rates)
		if err := k.hold(n); err != nil {
			return nil, err
		}
		results = append(results, k)
	}
	return results, nil
}

// expired returns clients whose tokens are over.
func expired(a *api, n int) ([]client, error) {
	a.life.Store(-int64(time.Minute))
	clients, err := openOurs(a, n)
	a.life.Store(int64(time.Hour))
	return clients, err
}

// race refreshes all at once, as fast as it goes.
func (k *keys) race(n int, rates *[]float64) error {
	a := newAPI(0, 0)
	clients, err := expired(a, n)
	if err != nil {
		return err
	}
	next := clients
	var failed atomic.Int64
	took := rush(n, func() func() {
		c := next[0]
		next = next[1:]
		req := newRequest(c.ctx, a.url, 5)
		return func() {
			if status, _ := c.send(req); status != http.StatusOK {
				failed.Add(1)
			}
		}
	})
	if failed.Load() > 0 {
		return fmt.Errorf("%d of %d keys failed", failed.Load(), n)
	}
	k.Refreshes = int(a.calls.Load())
	*rates = append(*rates, float64(n)/took.Seconds())
	return nil
}

// gate holds refreshes until it is opened.
type gate struct {
	refresher
	entered atomic.Int64
	open    chan struct{}
}

func (g *gate) Refresh(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	g.entered.Add(1)
	<-g.open
	return g.refresher.Refresh(ctx, s)
}

// atOnce is how many refreshes a Transport sends at once. The others queue.
const atOnce = 256

// await waits until n callers wait: for their refresh, or in the queue, where all
// are once no goroutine comes any more.
func (g *gate) await(n int) {
	for g.entered.Load() < int64(min(n, atOnce)) {
		time.Sleep(time.Millisecond)
	}
	for running := 0; running != runtime.NumGoroutine(); time.Sleep(200 * time.Millisecond) {
		running = runtime.NumGoroutine()
	}
}

// hold keeps all refreshes under way until what they take has been counted.
// The callers are there before, each a goroutine with its request.
func (k *keys) hold(n int) error {
	a := newAPI(0, 0)
	clients, err := expired(a, n)
	if err != nil {
		return err
	}
	g := &gate{refresher: refresher{a}, open: make(chan struct{})}
	rt := &walletauth.Transport{Store: clients[0].rt.(*walletauth.Transport).Store, Base: a, Refresher: g, RefreshTimeout: 5 * time.Minute}
	start, done := make(chan struct{}), make(chan error, n)
	for _, c := range clients {
		req := newRequest(c.ctx, a.url, 5)
		go func() {
			<-start
			_, err := rt.RoundTrip(req)
			done <- err
		}()
	}
	before, running := inUse(), runtime.NumGoroutine()
	close(start)
	g.await(n)
	k.Goroutines = float64(runtime.NumGoroutine()-running) / float64(n)
	k.Bytes = float64(inUse()-before) / float64(n)
	close(g.open)
	for range n {
		err = firstOf(err, <-done)
	}
	return err
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// inUse is the heap and the stacks.
func inUse() int64 {
	live := heap()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return live + int64(m.StackInuse)
}

func keysTable(results []keys) table {
	t := table{Columns: []string{"keys at once", "refreshes", "refreshes per second", "goroutines each", "bytes each"}}
	for _, r := range results {
		bytes := "too few to tell"
		if r.Keys >= 1000 {
			bytes = number(r.Bytes)
		}
		t.add(number(r.Keys), number(r.Refreshes), number(r.PerSecond), number(r.Goroutines), bytes)
	}
	return t
}
