package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/walletauth/walletauth"
)

// meter is the transport's Base. It notes how long a request spent in it, all
// its sendings together. What is left of the time until the response is there
// is what the transport kept the request for; and since the store of a run is
// in memory, the transport has nothing to wait for but a refresh. So the longest
// such time is the longest that a request waited for one, to within what the
// scheduler adds, which makes it look worse and never better.
type meter struct{ *http.Transport }

func (m meter) RoundTrip(req *http.Request) (*http.Response, error) {
	trip, ok := req.Context().Value(tripKey{}).(*trip)
	if !ok || strings.HasSuffix(req.URL.Path, "/users/refresh-token") {
		// A refresh carries the context values of the request that caused it,
		// but is what the others wait for and no part of the request.
		return m.Transport.RoundTrip(req)
	}
	began := time.Now()
	defer func() { trip.inBase += time.Since(began) }()
	return m.Transport.RoundTrip(req)
}

// trip is a request on its way. Only its own goroutine uses it.
type trip struct{ inBase time.Duration }

type tripKey struct{}

func withTrip(ctx context.Context) (context.Context, *trip) {
	t := &trip{}
	return context.WithValue(ctx, tripKey{}, t), t
}

// tally is what has been counted so far.
type tally struct {
	mu        sync.Mutex // guards what follows
	latencies []time.Duration
	bad       int
	longest   time.Duration // that a request was held by the transport
	events    map[walletauth.EventType]int
}

func (t *tally) add(latency, held time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latencies = append(t.latencies, latency)
	t.longest = max(t.longest, held)
	if err != nil {
		t.bad++
	}
}

func (t *tally) event(e walletauth.EventType) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.events == nil {
		t.events = make(map[walletauth.EventType]int)
	}
	t.events[e]++
}

func (t *tally) failures() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bad
}

func (t *tally) failed() bool { return t.failures() > 0 }

func (t *tally) progress() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("%d requests, %d failed, %d refreshes",
		len(t.latencies), t.bad, t.events[walletauth.RefreshSucceeded])
}

// table is the outcome, a row in a line.
func (t *tally) table() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.Sort(t.latencies)
	longest := "none waited"
	if t.events[walletauth.RefreshBegan] > 0 {
		longest = short(t.longest)
	}
	var b strings.Builder
	for _, row := range []struct {
		name  string
		value any
	}{
		{"requests", len(t.latencies)},
		{"failures", t.bad},
		{"refreshes", t.events[walletauth.RefreshSucceeded]},
		{"401s retried", t.events[walletauth.RequestReplayed]},
		{"latency p50", short(percentile(t.latencies, 50))},
		{"latency p99", short(percentile(t.latencies, 99))},
		{"latency max", short(percentile(t.latencies, 100))},
		{"longest wait for a refresh", longest},
	} {
		fmt.Fprintf(&b, "%-26s  %12v\n", row.name, row.value)
	}
	return b.String()
}

// percentile returns the smallest value that p percent of them do not exceed.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// short is d in three digits.
func short(d time.Duration) string {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}
