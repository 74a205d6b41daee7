package load_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
)

// mark is what the process holds at a moment when no request is under way.
type mark struct {
	at         time.Duration
	heap       int64 // bytes that are alive
	goroutines int
}

func (m mark) String() string {
	return fmt.Sprintf("%4.0f s: heap %.2f MiB, %d goroutines", m.at.Seconds(), float64(m.heap)/(1<<20), m.goroutines)
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what had a finalizer, and what sync.Pool kept through the first
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// checkLevel compares the last quarter of the marks with the second: the first
// is the warm-up, in which connections are made and buffers reach their size.
func checkLevel(t *testing.T, marks []mark) {
	t.Helper()
	quarter := len(marks) / 4
	before, after := marks[quarter:2*quarter], marks[len(marks)-quarter:]
	byHeap := func(a, b mark) int { return int(a.heap - b.heap) }
	byNumber := func(a, b mark) int { return a.goroutines - b.goroutines }
	// A leak of 8 bytes for each session, let alone for each refresh, is more.
	// Less is what the buffers of late connections come to.
	if had, has := slices.MaxFunc(before, byHeap).heap, slices.MinFunc(after, byHeap).heap; has-had > 384<<10 {
		t.Errorf("the heap grew from %d to %d bytes", had, has)
	}
	// A connection has two. Refreshes behind a request may be under way at any
	// mark; that one of a hundred leaves a goroutine behind is more.
	if had, has := slices.MaxFunc(before, byNumber).goroutines, slices.MinFunc(after, byNumber).goroutines; has > had+2*callers {
		t.Errorf("there were %d goroutines at most, and are %d at least", had, has)
	}
}
