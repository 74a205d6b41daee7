package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"
)

// loopback is what a request takes over real HTTP to a server on this machine,
// beside one whose caller sets the fields and which no transport touches.
type loopback struct {
	Peer         string  `json:"peer"`
	Microseconds float64 `json:"us"`       // median
	Added        float64 `json:"added_us"` // median minus the median without a transport
	Share        float64 `json:"share"`    // of it
}

// bare is no transport at all.
var bare = &peer{name: "none", fixed: true, open: func(a *api, n int) ([]client, error) {
	return each(a, n, func() (http.RoundTripper, error) { return withToken{a.base, a.mint().token}, nil })
}}

// withToken is a caller that sets the token itself, where it may: the request
// is its own.
type withToken struct {
	base  http.RoundTripper
	token string
}

func (w withToken) RoundTrip(req *http.Request) (*http.Response, error) {
	req.Header.Set("Authorization", "Bearer "+w.token)
	return w.base.RoundTrip(req)
}

// measureLoopback sends n requests of each peer, one of each in turn, over the
// same connection: a request is short enough for the machine to be the same to
// all of a turn.
func measureLoopback(n int) ([]loopback, error) {
	a := newAPI(0, time.Hour)
	server := httptest.NewServer(a)
	defer server.Close()
	a.url, a.base = server.URL, server.Client().Transport
	peers := append([]*peer{bare}, everyone...)
	latencies := make(map[*peer][]float64)
	clients := make(map[*peer]client)
	for _, p := range peers {
		c, err := p.one(a)
		if err != nil {
			return nil, err
		}
		clients[p] = c
	}
	err := interleave(n, peers, func(p *peer) error {
		c := clients[p]
		req := p.request(c, a, 5)
		start := time.Now()
		status, err := c.send(req)
		latencies[p] = append(latencies[p], float64(time.Since(start))/float64(time.Microsecond))
		if status != http.StatusOK {
			return fmt.Errorf("%s over loopback: %d, %w", p.name, status, err)
		}
		return nil
	})
	return loopbacks(peers, latencies), err
}

func loopbacks(peers []*peer, latencies map[*peer][]float64) []loopback {
	var results []loopback
	none := median(latencies[bare])
	for _, p := range peers {
		us := median(latencies[p])
		results = append(results, loopback{p.name, us, us - none, (us - none) / none})
	}
	return results
}

func loopbackTable(results []loopback) table {
	t := table{Columns: []string{"", "µs", "added by the transport, µs", "share"}}
	for _, r := range results {
		t.add(r.Peer, number(r.Microseconds), fmt.Sprintf("%+.1f", r.Added), fmt.Sprintf("%+.1f %%", 100*r.Share))
	}
	return t
}
