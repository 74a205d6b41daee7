package main

import (
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// load is a kind of traffic: how many fields of its own a request has, how many
// sessions and how many goroutines there are.
type load struct {
	Fields     int `json:"fields"`
	Sessions   int `json:"sessions"`
	Goroutines int `json:"goroutines"`
}

// loads are those that the tables show. With three fields more, five are the
// most that fit into Go's smallest map.
var loads = []load{{5, 1, 1}, {5, 1000, 1}, {5, 1, 64}, {6, 1, 1}, {6, 1000, 1}}

// overhead is what a request costs on a base transport that costs nothing.
type overhead struct {
	Peer string `json:"peer"`
	load
	Nanoseconds float64   `json:"ns"`           // medians of the rounds
	OfFloor     float64   `json:"of_bare_copy"` // medians of the rounds' ratios
	OfOAuth2    float64   `json:"of_x_oauth2"`  //
	Bytes       float64   `json:"bytes"`        // allocated
	Allocations float64   `json:"allocations"`  //
	Rounds      []float64 `json:"ns_by_round"`
}

// bout is a peer under a load, ready to be measured again and again.
type bout struct {
	clients  []client
	requests [][]*http.Request // of each goroutine, of each session
	result   *overhead
}

// newBout gives each goroutine requests of its own.
func newBout(p *peer, l load) (*bout, error) {
	a := newAPI(0, time.Hour)
	a.base = idle{a}
	clients, err := p.open(a, l.Sessions)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	b := &bout{clients: clients, requests: make([][]*http.Request, l.Goroutines), result: &overhead{Peer: p.name, load: l}}
	for g := range b.requests {
		for _, c := range clients {
			b.requests[g] = append(b.requests[g], bringAnswer(p.request(c, a, l.Fields)))
		}
	}
	return b, nil
}

// run sends n requests, shared among the goroutines.
func (b *bout) run(n int) {
	if len(b.requests) == 1 {
		b.sendAll(b.requests[0], n)
		return
	}
	var all sync.WaitGroup
	for _, requests := range b.requests {
		all.Go(func() { b.sendAll(requests, n/len(b.requests)) })
	}
	all.Wait()
}

func (b *bout) sendAll(requests []*http.Request, n int) {
	for i := range n {
		s := i % len(requests)
		if _, err := b.clients[s].rt.RoundTrip(requests[s]); err != nil {
			panic(err) // the base transport never fails
		}
	}
}

// measure adds a round of n requests. With one goroutine it measures
// processor time, to which it does not matter who else wants the processor; with
// many it measures wall-clock time, since who waits for a lock needs no processor.
// What the garbage collector takes counts: it is the price of the allocations.
func (b *bout) measure(n int) {
	spent := processorTime
	if b.result.Goroutines > 1 {
		spent = clockTime
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := spent()
	b.run(n)
	took := spent() - start
	runtime.ReadMemStats(&after)
	b.result.Rounds = append(b.result.Rounds, float64(took)/float64(n))
	b.result.Bytes = float64(after.TotalAlloc-before.TotalAlloc) / float64(n)
	b.result.Allocations = float64(after.Mallocs-before.Mallocs) / float64(n)
}

var began = time.Now()

func clockTime() time.Duration { return time.Since(began) }

// measureOverhead measures all peers under each load, n requests a round.
func measureOverhead(loads []load, rounds, n int) ([]overhead, error) {
	var results []overhead
	for _, l := range loads {
		bouts := make(map[*peer]*bout)
		for _, p := range everyone {
			b, err := newBout(p, l)
			if err != nil {
				return nil, err
			}
			bouts[p] = b
		}
		_ = interleave(rounds, everyone, func(p *peer) error { bouts[p].measure(n); return nil })
		for _, p := range everyone {
			r := bouts[p].result
			r.Nanoseconds = median(r.Rounds)
			r.OfFloor = median(ratios(r.Rounds, bouts[floor].result.Rounds))
			r.OfOAuth2 = median(ratios(r.Rounds, bouts[xoauth2].result.Rounds))
			results = append(results, *r)
		}
	}
	return results, nil
}

// overheadOf finds a result.
func overheadOf(results []overhead, who string, l load) overhead {
	for _, r := range results {
		if r.Peer == who && r.load == l {
			return r
		}
	}
	return overhead{}
}

func overheadTable(results []overhead, fields int) table {
	t := table{Columns: []string{"", "ns", "of the bare copy", "of x/oauth2", "B", "allocations", "1,000 sessions: ns", "of the bare copy", "B", "allocations"}}
	shared := loads[2]
	if fields == shared.Fields {
		t.Columns = append(t.Columns, fmt.Sprintf("%d goroutines: ns", shared.Goroutines), "of the bare copy")
	}
	for _, p := range everyone {
		one := overheadOf(results, p.name, load{fields, 1, 1})
		many := overheadOf(results, p.name, load{fields, 1000, 1})
		row := []string{p.name, number(one.Nanoseconds), ratio(one.OfFloor), ratio(one.OfOAuth2), number(one.Bytes), number(one.Allocations),
			number(many.Nanoseconds), ratio(many.OfFloor), number(many.Bytes), number(many.Allocations)}
		if fields == shared.Fields {
			crowd := overheadOf(results, p.name, shared)
			row = append(row, number(crowd.Nanoseconds), ratio(crowd.OfFloor))
		}
		t.add(row...)
	}
	return t
}
