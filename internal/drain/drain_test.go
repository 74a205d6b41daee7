package drain

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
)

func TestNothingBeginsAfterClose(t *testing.T) {
	g := New()
	if g.Closed() || !g.Begin() {
		t.Fatal("it is closed from the start")
	}
	g.Close()
	if !g.Closed() || g.Begin() {
		t.Error("work began after Close")
	}
	select {
	case <-g.Closing():
	default:
		t.Error("Closing is not closed")
	}
}

func TestWaitEndsWithTheLastWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New()
		g.Begin()
		g.Begin()
		g.End()
		g.Close()
		waited := make(chan bool, 1)
		go func() { waited <- g.Wait(t.Context()) }()
		synctest.Wait()
		select {
		case <-waited:
			t.Fatal("it did not wait")
		default:
		}
		g.End()
		if !<-waited {
			t.Error("it gave up")
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g := New()
	g.Begin()
	g.Close()
	if g.Wait(ctx) {
		t.Error("work is left, and it says that none is")
	}
	g.End()
	if !g.Wait(ctx) {
		t.Error("nothing is left, and it says that some is")
	}
}

func TestCloseWithoutWork(t *testing.T) {
	g := New()
	g.Close()
	g.Close() // may be called again
	if !g.Wait(t.Context()) {
		t.Error("nothing was begun, and something is waited for")
	}
}

func TestWorkThatEndsBeforeCloseIsNotWaitedFor(t *testing.T) {
	g := New()
	for range 3 {
		g.Begin()
		g.End()
	}
	if g.Closed() {
		t.Error("it closed itself")
	}
	g.Close()
	if !g.Wait(t.Context()) {
		t.Error("it waits")
	}
}

func TestGroupIsSafeForConcurrentUse(t *testing.T) {
	g := New()
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if g.Begin() {
				g.End()
			}
			g.Close()
		})
	}
	all.Wait()
	if !g.Wait(t.Context()) {
		t.Error("something is left")
	}
}
