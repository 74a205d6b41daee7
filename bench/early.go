package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// early is traffic across the moment at which a peer begins to refresh: its own
// early window, or the expiry if it has none.
type early struct {
	Peer      string   `json:"peer"`
	Requests  int      `json:"requests"`
	Failed    int      `json:"failed"`
	Waited    int      `json:"waited"` // longer than a fifth of the refresh, sent when it was due
	Refreshes int      `json:"refreshes"`
	P50       float64  `json:"p50_ms"`
	P99       float64  `json:"p99_ms"`
	Max       float64  `json:"max_ms"`
	Samples   []sample `json:"samples"`
}

// sample is one request: when it was sent, counted from the opening of the
// window, and how long it took.
type sample struct {
	AtMS      float64
	LatencyMS float64
	OK        bool
}

// MarshalJSON writes a sample as a pair, since there are thousands.
func (s sample) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "[%.2f,%.2f]", s.AtMS, s.LatencyMS), nil
}

// UnmarshalJSON reads such a pair.
func (s *sample) UnmarshalJSON(data []byte) error {
	var pair [2]float64
	err := json.Unmarshal(data, &pair)
	s.AtMS, s.LatencyMS = pair[0], pair[1]
	return err
}

// crossing says how a window is crossed: n requests evenly over four times the
// refresh, of which a quarter comes before the opening.
type crossing struct {
	requests int
	refresh  time.Duration
	lead     time.Duration // from opening a client to the window; azcore wants 30 s between two fetches
}

// measureEarly opens all clients at once and crosses their windows one after
// the other.
func measureEarly(c crossing) ([]early, error) {
	var crossings []func() early
	for i, p := range refreshing {
		opens := c.lead + time.Duration(i)*6*c.refresh
		a := newAPI(c.refresh, p.window+opens)
		opening := time.Now().Add(opens)
		client, err := p.one(a)
		if err != nil {
			return nil, err
		}
		a.life.Store(int64(time.Hour))
		crossings = append(crossings, func() early { return c.cross(p, client, a, opening) })
	}
	var results []early
	for _, cross := range crossings {
		results = append(results, cross())
	}
	return results, nil
}

func (c crossing) cross(p *peer, client client, a *api, opening time.Time) early {
	samples := make([]sample, c.requests)
	begin := opening.Add(-c.refresh)
	var all sync.WaitGroup
	for i := range samples {
		due := begin.Add(time.Duration(i) * 4 * c.refresh / time.Duration(c.requests))
		time.Sleep(time.Until(due))
		all.Go(func() { samples[i] = timed(p, client, a, opening) })
	}
	all.Wait()
	time.Sleep(c.refresh) // one that nobody waits for
	return c.sum(p, int(a.calls.Load()), samples)
}

func timed(p *peer, c client, a *api, zero time.Time) sample {
	req := p.request(c, a, 5)
	start := time.Now()
	status, err := c.send(req)
	return sample{milliseconds(start.Sub(zero)), milliseconds(time.Since(start)), err == nil && status == http.StatusOK}
}

func (c crossing) sum(p *peer, refreshes int, samples []sample) early {
	r := early{Peer: p.name, Requests: len(samples), Refreshes: refreshes, Samples: samples}
	var latencies []float64
	for _, s := range samples {
		latencies = append(latencies, s.LatencyMS)
		if s.AtMS >= 0 && s.LatencyMS > milliseconds(c.refresh)/5 {
			r.Waited++
		}
		if !s.OK {
			r.Failed++
		}
	}
	r.P50, r.P99, r.Max = median(latencies), quantile(latencies, 0.99), quantile(latencies, 1)
	return r
}

func earlyTable(results []early) table {
	t := table{Columns: []string{"", "begins to refresh", "waited", "p50, ms", "p99, ms", "max, ms", "refreshes", "failed"}}
	for _, r := range results {
		t.add(r.Peer, windowOf(r.Peer), outOf(r.Waited, r.Requests),
			number(r.P50), number(r.P99), number(r.Max), number(r.Refreshes), number(r.Failed))
	}
	return t
}

func windowOf(name string) string {
	for _, p := range refreshing {
		if p.name == name && p.window > 0 {
			return p.window.String() + " before expiry"
		}
	}
	return "at expiry"
}
