package main

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// outage is traffic while the token endpoint is down: in the last part of a
// token's life, for as long again after its end, and once the endpoint is back.
type outage struct {
	Peer    string  `json:"peer"`
	Valid   phase   `json:"token_valid"`
	Expired phase   `json:"token_expired"`
	Back    phase   `json:"endpoint_back"`
	BackMS  float64 `json:"recovery_ms"` // from the endpoint's return to the first success
}

type phase struct {
	Requests int `json:"requests"`
	Failed   int `json:"failed"`
	Calls    int `json:"calls"` // to the token endpoint
}

// measureOutage lets all peers live through their outages at the same time:
// they send little and mostly wait.
func measureOutage(each time.Duration, perSecond int) ([]outage, error) {
	results := make([]outage, len(refreshing))
	errs := make(chan error, len(refreshing))
	for i, p := range refreshing {
		go func() {
			var err error
			results[i], err = outageOf(p, each, perSecond)
			errs <- err
		}()
	}
	for range refreshing {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	return results, nil
}

func outageOf(p *peer, each time.Duration, perSecond int) (outage, error) {
	a := newAPI(0, each)
	c, err := p.one(a)
	if err != nil {
		return outage{}, err
	}
	expiry := time.Now().Add(each)
	a.life.Store(int64(time.Hour))
	a.down.Store(true)
	t := traffic{peer: p, client: c, api: a, pace: time.Second / time.Duration(perSecond), patience: each / 5}
	margin := each / 50 // no request is on the edge between two phases
	valid := t.until(expiry.Add(-margin))
	time.Sleep(time.Until(expiry.Add(margin)))
	expired := t.until(expiry.Add(each))
	a.down.Store(false)
	back := time.Now()
	after := t.until(back.Add(each))
	t.all.Wait()
	r := outage{Peer: p.name, Valid: valid.sum(), Expired: expired.sum(), Back: after.sum()}
	if first := after.firstOK.Load(); first != nil {
		r.BackMS = milliseconds(first.Sub(back))
	}
	return r, nil
}

// traffic is requests at an even pace. Each has a goroutine of its own, so that
// one that waits holds up none, and a deadline.
type traffic struct {
	peer     *peer
	client   client
	api      *api
	pace     time.Duration
	patience time.Duration // how long a caller waits for its answer
	all      sync.WaitGroup
}

// stretch counts what was sent in one phase.
type stretch struct {
	requests int
	calls    int64
	failed   atomic.Int64
	firstOK  atomic.Pointer[time.Time]
}

func (s *stretch) sum() phase { return phase{s.requests, int(s.failed.Load()), int(s.calls)} }

// until sends requests until then. Those that are still waiting are counted
// when they are done.
func (t *traffic) until(then time.Time) *stretch {
	s := &stretch{}
	before := t.api.calls.Load()
	pace := time.NewTicker(t.pace)
	defer pace.Stop()
	for ; time.Now().Before(then); <-pace.C {
		s.requests++
		t.all.Go(func() { t.one(s) })
	}
	s.calls = t.api.calls.Load() - before
	return s
}

func (t *traffic) one(s *stretch) {
	c := t.client
	var cancel context.CancelFunc
	c.ctx, cancel = context.WithTimeout(c.ctx, t.patience)
	defer cancel()
	status, err := c.send(t.peer.request(c, t.api, 5))
	if err != nil || status != http.StatusOK {
		s.failed.Add(1)
		return
	}
	now := time.Now()
	s.firstOK.CompareAndSwap(nil, &now)
}

func outageTable(results []outage) table {
	t := table{Columns: []string{"", "token valid: failed", "calls", "token expired: failed", "calls", "endpoint back: failed", "first success after, ms"}}
	for _, r := range results {
		t.add(r.Peer, outOf(r.Valid.Failed, r.Valid.Requests), number(r.Valid.Calls),
			outOf(r.Expired.Failed, r.Expired.Requests), number(r.Expired.Calls),
			outOf(r.Back.Failed, r.Back.Requests), number(r.BackMS))
	}
	return t
}
