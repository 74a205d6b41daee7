package main

import (
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// crowd is many users through an outage of the token endpoint. All their tokens
// expire as it begins, and each user sends a request a second until one succeeds.
type crowd struct {
	Peer       string  `json:"peer"`
	Users      int     `json:"users"`
	OutageS    float64 `json:"outage_s"`
	Calls      int     `json:"calls"`      // to the token endpoint while it is down
	PerSecond  []int   `json:"per_second"` // from the beginning of the outage on
	Goroutines int     `json:"goroutines"` // the most beside the users'
	LongestMS  float64 `json:"longest_failure_ms"`
	Unserved   int     `json:"unserved"`
	ServedMS   float64 `json:"all_served_ms"` // after the end of the outage
}

// measureCrowd opens the clients with tokens that live for life, and begins the
// outage when those have expired.
func measureCrowd(users int, life, outage time.Duration) ([]crowd, error) {
	var results []crowd
	for _, p := range refreshing {
		if p == github {
			continue // signs each call with RSA: ten thousand users would show that alone
		}
		r, err := crowdOf(p, users, life, outage)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

func crowdOf(p *peer, users int, life, outage time.Duration) (crowd, error) {
	a := newAPI(20*time.Millisecond, life)
	clients, err := p.open(a, users)
	if err != nil {
		return crowd{}, err
	}
	time.Sleep(life + 100*time.Millisecond)
	a.life.Store(int64(time.Hour))
	a.calls.Store(0)
	a.down.Store(true)
	w := crowdWatch{api: a, idle: runtime.NumGoroutine() + users, start: time.Now(), stop: make(chan struct{})}
	var watching, all sync.WaitGroup
	watching.Go(w.watch)
	time.AfterFunc(outage, func() { w.callsDown = a.calls.Load(); a.down.Store(false) })
	giveUp := w.start.Add(outage + 90*time.Second)
	for i, c := range clients {
		all.Go(func() {
			time.Sleep(time.Duration(i) * time.Second / time.Duration(users))
			w.ask(p, c, giveUp)
		})
	}
	all.Wait()
	served := time.Since(w.start.Add(outage))
	close(w.stop)
	watching.Wait()
	return crowd{
		Peer: p.name, Users: users, OutageS: outage.Seconds(), Calls: int(w.callsDown), PerSecond: w.perSecond,
		Goroutines: w.goroutines, LongestMS: milliseconds(time.Duration(w.longest.Load())),
		Unserved: int(w.unserved.Load()), ServedMS: milliseconds(served),
	}, nil
}

// crowdWatch is what is seen of a crowd.
type crowdWatch struct {
	api       *api
	idle      int // goroutines that are not the transport's
	start     time.Time
	stop      chan struct{}
	callsDown int64

	perSecond  []int
	goroutines int
	longest    atomic.Int64 // nanoseconds
	unserved   atomic.Int64
}

// ask sends a request a second until one succeeds.
func (w *crowdWatch) ask(p *peer, c client, giveUp time.Time) {
	for next := time.Now(); ; time.Sleep(time.Until(next)) {
		began := time.Now()
		if status, err := c.send(p.request(c, w.api, 5)); err == nil && status == http.StatusOK {
			return
		}
		now := time.Now()
		took := int64(now.Sub(began))
		for longest := w.longest.Load(); took > longest && !w.longest.CompareAndSwap(longest, took); {
			longest = w.longest.Load()
		}
		if now.After(giveUp) {
			w.unserved.Add(1)
			return
		}
		for !next.After(now) {
			next = next.Add(time.Second)
		}
	}
}

// watch counts the calls of each second, and goroutines ten times a second.
func (w *crowdWatch) watch() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	before := int64(0)
	for {
		w.goroutines = max(w.goroutines, runtime.NumGoroutine()-w.idle)
		if time.Since(w.start) >= time.Duration(len(w.perSecond)+1)*time.Second {
			calls := w.api.calls.Load()
			w.perSecond = append(w.perSecond, int(calls-before))
			before = calls
		}
		select {
		case <-tick.C:
		case <-w.stop:
			w.perSecond = append(w.perSecond, int(w.api.calls.Load()-before))
			return
		}
	}
}

func crowdTable(results []crowd) table {
	t := table{Columns: []string{"", "calls while it is down", "most in one second", "most in one second once it is back", "goroutines", "longest failing request, s", "all served after, s"}}
	for _, r := range results {
		seconds := min(int(r.OutageS), len(r.PerSecond))
		down, back := r.PerSecond[:seconds], r.PerSecond[seconds:]
		served := number(r.ServedMS / 1000)
		if r.Unserved > 0 {
			served = "not " + number(r.Unserved)
		}
		t.add(r.Peer, number(r.Calls), number(most(down)), number(most(back)), number(r.Goroutines), number(r.LongestMS/1000), served)
	}
	return t
}

func most(counts []int) int { return slices.Max(append(slices.Clone(counts), 0)) }
