package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"time"

	"github.com/walletauth/walletauth"
)

// memory is what sessions cost in a MemoryStore.
type memory struct {
	Sessions int     `json:"sessions"`
	Bytes    float64 `json:"bytes_each"`                   // the store's own and its copy of the Session, beyond the strings
	LoadNS   float64 `json:"load_ns"`                      // of a key at random, the median of batches
	KeptByTR float64 `json:"kept_by_transport_bytes_each"` // once every session has sent a request
}

// tokenBytes is the length of the tokens: a signed JWT is about as long.
const tokenBytes = 800

func measureMemory(sizes []int) ([]memory, error) {
	var results []memory
	for _, n := range sizes {
		m, err := memoryOf(n)
		if err != nil {
			return nil, err
		}
		results = append(results, m)
	}
	return results, nil
}

// memoryOf fills a store with n sessions. Small ones are filled many times
// over, as the heap is not measured to the byte.
func memoryOf(n int) (memory, error) {
	copies := max(1, 1000/n)
	token := strings.Repeat("t", tokenBytes) // shared, so that strings do not count
	g := grant{token, time.Now().Add(time.Hour)}
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("user-", i)
	}
	template := session("user", g)
	stores := make([]*walletauth.MemoryStore, copies)
	before := heap()
	for i := range stores {
		stores[i] = &walletauth.MemoryStore{}
		if err := saveAll(stores[i], keys, template); err != nil {
			return memory{}, err
		}
	}
	stored := heap()
	kept, err := keptOf(stores[0], keys)
	m := memory{Sessions: n, Bytes: float64(stored-before) / float64(n*copies), LoadNS: loadTime(stores[0], keys), KeptByTR: kept}
	runtime.KeepAlive(stores)
	return m, err
}

func saveAll(store walletauth.TokenStore, keys []string, s *walletauth.Session) error {
	for _, key := range keys {
		if err := walletauth.Save(context.Background(), store, key, s); err != nil {
			return err
		}
	}
	return nil
}

// keptOf sends a request for each key and returns what that left behind.
func keptOf(store walletauth.TokenStore, keys []string) (float64, error) {
	a := newAPI(0, time.Hour)
	rt := &walletauth.Transport{Store: store, Base: idle{a}, Refresher: refresher{a}}
	before := heap()
	for _, key := range keys {
		if _, err := rt.RoundTrip(bringAnswer(newRequest(walletauth.WithKey(context.Background(), key), a.url, 5))); err != nil {
			return 0, err
		}
	}
	kept := float64(heap()-before) / float64(len(keys))
	runtime.KeepAlive(rt)
	return kept, nil
}

// loadTime loads keys at random.
func loadTime(store walletauth.TokenStore, keys []string) float64 {
	const batch = 10_000
	order := make([]string, batch)
	var times []float64
	for range 21 {
		for i := range order {
			order[i] = keys[rand.IntN(len(keys))]
		}
		start := time.Now()
		for _, key := range order {
			_, _ = store.Load(context.Background(), key)
		}
		times = append(times, float64(time.Since(start))/batch)
	}
	return median(times)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func memoryTable(results []memory) table {
	t := table{Columns: []string{"sessions", "bytes each, beyond their strings", "Load, ns", "kept by the transport, bytes in all"}}
	for _, r := range results {
		t.add(number(r.Sessions), number(r.Bytes), number(r.LoadNS), number(math.Round(r.KeptByTR*float64(r.Sessions))))
	}
	return t
}
