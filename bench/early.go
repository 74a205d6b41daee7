package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// early is traffic across the moment at which a peer begins to refresh: in its own
// early window, or at the expiry if it has none.
type early struct {
	Peer      string   `json:"peer"`
	Requests  int      `json:"requests"`
	Failed    int      `json:"failed"`
	Waited    int      `json:"waited"` // longer than a fifth of the refresh, answered when it had begun
	Refreshes int      `json:"refreshes"`
	P50       float64  `json:"p50_ms"`
	P99       float64  `json:"p99_ms"`
	Max       float64  `json:"max_ms"`
	Samples   []sample `json:"samples"`
}

// sample is one request: when it was sent, counted from the beginning of
// the refresh, and how long it took.
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

// crossing says how a window is crossed: a quarter of the requests is sent before
// the refresh begins, the others after that, evenly over four times the refresh.
type crossing struct {
	requests int
	refresh  time.Duration
	lead     time.Duration // from opening a client to its window
}

// measureEarly opens all clients at once and crosses their windows one after
// the other. Those that do not begin at a known moment are the last.
func measureEarly(c crossing, peers []*peer) ([]early, error) {
	turns := slices.SortedStableFunc(slices.Values(peers), func(p, q *peer) int { return cmp.Compare(p.spread, q.spread) })
	crossings := make(map[*peer]func() early)
	for i, p := range turns {
		cross, err := c.prepare(p, c.lead+time.Duration(i)*6*c.refresh)
		if err != nil {
			return nil, err
		}
		crossings[p] = cross
	}
	crossed := make(map[*peer]early)
	for _, p := range turns {
		crossed[p] = crossings[p]()
	}
	var results []early
	for _, p := range peers {
		results = append(results, crossed[p])
	}
	return results, nil
}

// peers are those that refresh so soon after they were opened.
func (c crossing) peers() []*peer {
	return slices.DeleteFunc(slices.Clone(refreshing), func(p *peer) bool { return p.pause > c.lead })
}

// prepare opens a client whose window opens after a while, to be crossed then.
func (c crossing) prepare(p *peer, opens time.Duration) (cross func() early, err error) {
	a := newAPI(c.refresh, p.window+opens)
	opening := time.Now().Add(opens)
	client, err := p.one(a)
	a.life.Store(int64(time.Hour))
	return func() early { return c.cross(p, client, a, opening) }, err
}

// cross sends requests until enough of them came after the beginning of the
// refresh, whenever that is, and keeps those around it.
func (c crossing) cross(p *peer, client client, a *api, opening time.Time) early {
	begin, pace := opening.Add(-c.refresh), 4*c.refresh/time.Duration(c.requests)
	var samples []*sample
	var all sync.WaitGroup
	for first := 0; len(samples) < first+c.requests; {
		time.Sleep(time.Until(begin.Add(time.Duration(len(samples)) * pace)))
		s := &sample{}
		samples = append(samples, s)
		all.Go(func() { *s = timed(p, client, a, opening) })
		if a.firstCall.Load() == nil {
			first = max(0, len(samples)-c.requests/4)
		}
	}
	all.Wait()
	time.Sleep(c.refresh) // one that nobody waits for
	return c.sum(p, a, samples[len(samples)-c.requests:], a.firstCall.Load().Sub(opening))
}

func timed(p *peer, c client, a *api, zero time.Time) sample {
	req := p.request(c, a, 5)
	start := time.Now()
	status, err := c.send(req)
	return sample{milliseconds(start.Sub(zero)), milliseconds(time.Since(start)), err == nil && status == http.StatusOK}
}

// sum counts the samples, and their times from the beginning of the refresh on.
func (c crossing) sum(p *peer, a *api, samples []*sample, began time.Duration) early {
	r := early{Peer: p.name, Requests: len(samples), Refreshes: int(a.calls.Load())}
	var latencies []float64
	for _, s := range samples {
		s.AtMS -= milliseconds(began)
		r.Samples = append(r.Samples, *s)
		latencies = append(latencies, s.LatencyMS)
		if s.AtMS+s.LatencyMS > 0 && s.LatencyMS > milliseconds(c.refresh)/5 {
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

// windowOf says when a peer begins to refresh.
func windowOf(name string) string {
	for _, p := range refreshing {
		switch {
		case p.name != name || p.window == 0:
		case p.spread > 0:
			return fmt.Sprintf("%s to %s before expiry", p.window, p.window-p.spread)
		default:
			return p.window.String() + " before expiry"
		}
	}
	return "at expiry"
}
