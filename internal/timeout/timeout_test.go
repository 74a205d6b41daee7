package timeout

import (
	"context"
	"errors"
	"net/http/httptrace"
	"testing"
	"testing/synctest"
	"time"
)

// realClock is the bubble's.
type realClock struct{}

func (realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// bubble runs test by fake time and demands that no goroutine is left.
func bubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// wantEnd demands that c ends after d with want.
func wantEnd(t *testing.T, c *Context, d time.Duration, want error) {
	t.Helper()
	began := time.Now()
	<-c.Done()
	if got := time.Since(began); got != d || c.Err() != want {
		t.Errorf("it ended after %v with %v, want %v and %v", got, c.Err(), d, want)
	}
}

func TestContextEnds(t *testing.T) {
	bubble(t, "after its time, as one that ran out of it", func(t *testing.T) {
		c := New(t.Context(), realClock{}, time.Second)
		defer c.Cancel()
		if c.Err() != nil {
			t.Errorf("before its end: %v", c.Err())
		}
		wantEnd(t, c, time.Second, context.DeadlineExceeded)
	})
	bubble(t, "with its parent, for the same reason", func(t *testing.T) {
		for _, want := range []error{context.DeadlineExceeded, context.Canceled} {
			parent, cancel := context.WithTimeout(t.Context(), time.Second)
			c := New(parent, realClock{}, time.Hour)
			if want == context.Canceled {
				cancel()
				wantEnd(t, c, 0, want)
			} else {
				wantEnd(t, c, time.Second, want)
			}
			cancel()
			c.Cancel()
		}
	})
	bubble(t, "when its parent has ended before", func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		cancel()
		c := New(parent, realClock{}, time.Hour)
		defer c.Cancel()
		wantEnd(t, c, 0, context.Canceled)
	})
	bubble(t, "when it is cancelled, once and for all", func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		c := New(parent, realClock{}, time.Second)
		c.Cancel()
		c.Cancel()
		cancel()
		time.Sleep(2 * time.Second)
		if c.Err() != context.Canceled {
			t.Errorf("got %v", c.Err())
		}
	})
	bubble(t, "once, with its first reason", func(t *testing.T) {
		c := New(t.Context(), realClock{}, time.Second)
		wantEnd(t, c, time.Second, context.DeadlineExceeded)
		c.Cancel()
		if c.Err() != context.DeadlineExceeded {
			t.Errorf("got %v", c.Err())
		}
	})
	bubble(t, "at the time that was started last", func(t *testing.T) {
		c := New(t.Context(), realClock{}, time.Second)
		defer c.Cancel()
		c.Start(time.Minute)
		wantEnd(t, c, time.Minute, context.DeadlineExceeded)
	})
	bubble(t, "not while its time is stopped", func(t *testing.T) {
		c := New(t.Context(), realClock{}, time.Second)
		defer c.Cancel()
		time.Sleep(time.Second / 2)
		c.Stop()
		time.Sleep(time.Hour)
		if c.Err() != nil {
			t.Fatalf("got %v", c.Err())
		}
		c.Start(time.Second)
		wantEnd(t, c, time.Second, context.DeadlineExceeded)
	})
}

// What others make of it sees the end, its reason and the parent's values.
func TestContextIsAParentLikeAnyOther(t *testing.T) {
	type key struct{}
	bubble(t, "a child ends with it", func(t *testing.T) {
		c := New(context.WithValue(t.Context(), key{}, "value"), realClock{}, time.Second)
		defer c.Cancel()
		child, cancel := context.WithCancel(c)
		defer cancel()
		<-child.Done()
		if !errors.Is(child.Err(), context.DeadlineExceeded) || child.Value(key{}) != "value" {
			t.Errorf("the child: %v, value %v", child.Err(), child.Value(key{}))
		}
	})
}

func TestSleep(t *testing.T) {
	bubble(t, "waits in full", func(t *testing.T) {
		began := time.Now()
		if !Sleep(t.Context(), realClock{}, time.Second) || time.Since(began) != time.Second {
			t.Errorf("it waited %v", time.Since(began))
		}
	})
	bubble(t, "ends with its context", func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if Sleep(ctx, realClock{}, time.Hour) || time.Since(began) != time.Second {
			t.Errorf("it waited %v", time.Since(began))
		}
	})
}

func TestDetach(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	cancel()
	ctx = Detach(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{ConnectDone: func(string, string, error) {}}))
	if ctx.Err() != nil || ctx.Done() != nil {
		t.Error("it ends with its parent")
	}
	if ctx.Value(key{}) != "value" {
		t.Error("it has lost a value")
	}
	if httptrace.ContextClientTrace(ctx) != nil {
		t.Error("it has the caller's trace")
	}
}
