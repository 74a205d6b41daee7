package main

import (
	"net/http"
	"sync/atomic"
	"time"
)

// refused is a crowd of requests that are under way when their token is
// revoked. Their 401s come in one after the other. A caller who gets one sends
// its request again itself, once.
type refused struct {
	Peer      string  `json:"peer"`
	Requests  int     `json:"requests"`
	Mended    int     `json:"mended"`     // the caller saw no 401
	Retried   int     `json:"by_callers"` // the caller's own second attempt did it
	Replays   int     `json:"replays"`    // requests sent beyond the first and the callers' own
	Refreshes int     `json:"refreshes"`
	LastMS    float64 `json:"last_ms"`
}

func refusedOf(p *peer, requests int, refresh, spread time.Duration) (refused, error) {
	a := newAPI(refresh, time.Hour)
	c, err := p.one(a)
	if err != nil {
		return refused{}, err
	}
	var underWay, turn atomic.Int64
	all := make(chan struct{})
	before := a.requests.Load()
	a.hold = func() {
		if n := underWay.Add(1); n == int64(requests) {
			a.accepted.Clear()
			close(all)
		} else if n > int64(requests) {
			return
		}
		<-all
		time.Sleep(time.Duration(turn.Add(1)) * spread / time.Duration(requests))
	}
	var mended, retried, own atomic.Int64
	took := rush(requests, func() func() {
		first, second := p.request(c, a, 5), p.request(c, a, 5)
		return func() {
			if status, _ := c.send(first); status == http.StatusOK {
				mended.Add(1)
				return
			}
			own.Add(1)
			if status, _ := c.send(second); status == http.StatusOK {
				retried.Add(1)
			}
		}
	})
	sent := a.requests.Load() - before
	return refused{
		Peer: p.name, Requests: requests, Mended: int(mended.Load()), Retried: int(retried.Load()),
		Replays: int(sent - int64(requests) - own.Load()), Refreshes: int(a.calls.Load()), LastMS: milliseconds(took),
	}, nil
}

// measureRefused keeps of each peer the round with the median time.
func measureRefused(rounds, requests int, refresh, spread time.Duration) ([]refused, error) {
	all := make(map[*peer][]refused)
	err := interleave(rounds, refreshing, func(p *peer) error {
		r, err := refusedOf(p, requests, refresh, spread)
		all[p] = append(all[p], r)
		return err
	})
	var results []refused
	for _, p := range refreshing {
		results = append(results, middle(all[p]))
	}
	return results, err
}

func middle(rounds []refused) refused {
	var times []float64
	for _, r := range rounds {
		times = append(times, r.LastMS)
	}
	for _, r := range rounds {
		if r.LastMS == median(times) {
			return r
		}
	}
	return refused{}
}

func refusedTable(results []refused) table {
	t := table{Columns: []string{"", "mended", "by the caller's own retry", "lost", "replays", "refreshes", "until the last is done, ms"}}
	for _, r := range results {
		t.add(r.Peer, mended(r), number(r.Retried), number(r.Requests-r.Mended-r.Retried),
			number(r.Replays), number(r.Refreshes), number(r.LastMS))
	}
	return t
}

// mended says "cannot" of those that return every 401.
func mended(r refused) string {
	if r.Replays == 0 && r.Mended == 0 {
		return "cannot"
	}
	return outOf(r.Mended, r.Requests)
}
