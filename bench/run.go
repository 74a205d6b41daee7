package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// results is all that a run measured.
type results struct {
	Machine  machine    `json:"machine"`
	Overhead []overhead `json:"overhead"`
	Loopback []loopback `json:"loopback"`
	Expiry   []expiry   `json:"expiry"`
	Early    []early    `json:"early"`
	Outage   []outage   `json:"outage"`
	Crowd    []crowd    `json:"crowd"`
	Refused  []refused  `json:"refused"`
	Memory   []memory   `json:"memory"`
	Keys     []keys     `json:"keys"`
	Rates    []rate     `json:"rates"`
	Shared   []shared   `json:"shared"`
}

// size is how much of everything is measured.
type size struct {
	overheadRounds, overheadRequests int
	loopbackRequests                 int
	expiryRounds, callers            int
	crossing                         crossing
	outage                           time.Duration
	crowd                            int
	crowdLife, crowdOutage           time.Duration
	refusedRounds, refused           int
	memory, keys, processes          []int
	growthRounds                     int
}

var (
	full = size{
		overheadRounds: 41, overheadRequests: 10_000, loopbackRequests: 4000,
		expiryRounds: 15, callers: 10_000,
		crossing: crossing{1000, 500 * time.Millisecond, 31 * time.Second},
		outage:   10 * time.Second, crowd: 10_000, crowdLife: 10 * time.Second, crowdOutage: time.Minute, refusedRounds: 5, refused: 1000,
		memory:       []int{1, 10, 100, 1000, 10_000, 100_000, 1_000_000},
		keys:         []int{1, 10, 100, 1000, 10_000, 100_000},
		processes:    []int{1, 2, 4, 8, 16, 32, 64},
		growthRounds: 5,
	}
	small = size{
		overheadRounds: 9, overheadRequests: 5_000, loopbackRequests: 300,
		expiryRounds: 1, callers: 10_000,
		crossing: crossing{200, 100 * time.Millisecond, 200 * time.Millisecond},
		outage:   time.Second, crowd: 1000, crowdLife: time.Second, crowdOutage: 2 * time.Second, refusedRounds: 1, refused: 1000,
		memory: []int{1, 1000, 100_000}, keys: []int{1, 100, 10_000}, processes: []int{1, 8}, growthRounds: 1,
	}
)

// step is a part of a run.
type step struct {
	name    string
	measure func(*results) error
}

func (s size) steps() []step {
	const refresh, spread, perSecond = 50 * time.Millisecond, 200 * time.Millisecond, 100
	return []step{
		{"overhead", func(r *results) (err error) {
			r.Overhead, err = measureOverhead(loads, s.overheadRounds, s.overheadRequests)
			return err
		}},
		{"loopback", func(r *results) (err error) {
			r.Loopback, err = measureLoopback(s.loopbackRequests)
			return err
		}},
		{"expiry", func(r *results) (err error) {
			r.Expiry, err = measureExpiry(s.expiryRounds, s.callers, refresh)
			return err
		}},
		{"early window", func(r *results) (err error) {
			r.Early, err = measureEarly(s.crossing, s.crossing.peers())
			return err
		}},
		{"outage", func(r *results) (err error) {
			r.Outage, err = measureOutage(s.outage, perSecond)
			return err
		}},
		{"crowd", func(r *results) (err error) {
			r.Crowd, err = measureCrowd(s.crowd, s.crowdLife, s.crowdOutage)
			return err
		}},
		{"401", func(r *results) (err error) {
			r.Refused, err = measureRefused(s.refusedRounds, s.refused, refresh, spread)
			return err
		}},
		{"memory", func(r *results) (err error) {
			r.Memory, err = measureMemory(s.memory)
			return err
		}},
		{"keys", func(r *results) (err error) {
			r.Keys, err = measureKeys(s.growthRounds, s.keys)
			return err
		}},
		{"processes", func(r *results) error { return s.measureStores(r, refresh) }},
	}
}

func (s size) measureStores(r *results, refresh time.Duration) error {
	places, stop, err := startKinds()
	if err != nil {
		return err
	}
	defer stop()
	if r.Rates, err = measureRates(places, s.growthRounds, 1000); err != nil {
		return err
	}
	r.Shared, err = measureShared(places, s.growthRounds, s.processes, refresh)
	return err
}

// figures returns those of an earlier run, or measures everything; where only
// names a step, that step is measured and the rest is an earlier run's.
func figures(from, only string, quick bool) (*results, error) {
	r := &results{Machine: thisMachine(quick)}
	if from != "" {
		data, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(data, r); err != nil {
			return nil, err
		}
		if only == "" {
			return r, nil
		}
	}
	return r, r.measure(only, quick)
}

// measure takes all steps. One that fails leaves its tables empty, and the others
// are worth having: it can be taken again by its name.
func (r *results) measure(only string, quick bool) (err error) {
	s := full
	if quick {
		s = small
	}
	for _, step := range s.steps() {
		if only != "" && step.name != only {
			continue
		}
		start := time.Now()
		if failed := step.measure(r); failed != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", step.name, failed))
		}
		fmt.Fprintf(os.Stderr, "%-12s %6.1f s\n", step.name, time.Since(start).Seconds())
	}
	return err
}

// show prints the tables; where out is given it also writes there.
func (r *results) show(out string) error {
	for _, t := range r.tables() {
		fmt.Printf("%s\n\n%s\n", t.name, t.table)
	}
	if out == "" {
		return nil
	}
	return r.write(out)
}
