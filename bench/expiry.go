package main

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// expiry is a crowd of callers that meet an expired token at the same moment.
type expiry struct {
	Peer      string    `json:"peer"`
	Callers   int       `json:"callers"`
	Served    int       `json:"served"`    // the fewest of any round
	Refreshes int       `json:"refreshes"` // the most of any round
	LastMS    float64   `json:"last_ms"`   // until the last is served, median
	BeyondMS  float64   `json:"beyond_ms"` // the refresh itself
	BestMS    float64   `json:"best_ms"`   // of the round that was disturbed least
	Rounds    []float64 `json:"last_ms_by_round"`
}

// round has the callers meet the expiry once.
func (e *expiry) round(p *peer, refresh time.Duration) error {
	const life = 30 * time.Millisecond
	a := newAPI(refresh, life)
	c, err := p.one(a)
	if err != nil {
		return err
	}
	time.Sleep(life + 5*time.Millisecond)
	a.life.Store(int64(time.Hour))

	var served atomic.Int64
	took := rush(e.Callers, func() func() {
		req := p.request(c, a, 5)
		return func() {
			if status, _ := c.send(req); status == http.StatusOK {
				served.Add(1)
			}
		}
	})
	e.Rounds = append(e.Rounds, milliseconds(took))
	e.Served = min(e.Served, int(served.Load()))
	e.Refreshes = max(e.Refreshes, int(a.calls.Load()))
	return nil
}

// rush lets n callers go at once and returns when the last is done. What
// prepare returns is what a caller does; to prepare is not counted.
func rush(n int, prepare func() func()) time.Duration {
	var ready, done sync.WaitGroup
	ready.Add(n)
	start := make(chan struct{})
	for range n {
		do := prepare()
		done.Go(func() {
			ready.Done()
			<-start
			do()
		})
	}
	ready.Wait()
	began := time.Now()
	close(start)
	done.Wait()
	return time.Since(began)
}

func measureExpiry(rounds, callers int, refresh time.Duration) ([]expiry, error) {
	results := make(map[*peer]*expiry)
	for _, p := range refreshing {
		results[p] = &expiry{Peer: p.name, Callers: callers, Served: callers}
	}
	err := interleave(rounds, refreshing, func(p *peer) error { return results[p].round(p, refresh) })
	var list []expiry
	for _, p := range refreshing {
		r := results[p]
		r.LastMS = median(r.Rounds)
		r.BestMS = quantile(r.Rounds, 0)
		r.BeyondMS = r.LastMS - milliseconds(refresh)
		list = append(list, *r)
	}
	return list, err
}

func expiryTable(results []expiry) table {
	t := table{Columns: []string{"", "served", "refreshes", "until the last is served, ms", "in the best round", "beyond the refresh, ms", "in the best round"}}
	for _, r := range results {
		refresh := r.LastMS - r.BeyondMS
		t.add(r.Peer, outOf(r.Served, r.Callers), number(r.Refreshes),
			number(r.LastMS), number(r.BestMS), number(r.BeyondMS), number(r.BestMS-refresh))
	}
	return t
}
