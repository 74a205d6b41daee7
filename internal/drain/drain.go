// Package drain waits for what is in progress at the end of a program.
package drain

import (
	"context"
	"sync"
)

// Group counts work that must be finished before the end. Unlike a sync.WaitGroup
// it lets nothing begin after Close, and can be waited for with a context. It is
// safe for concurrent use.
type Group struct {
	closing chan struct{} // closed by Close
	idle    chan struct{} // closed when nothing is left after that

	mu   sync.Mutex // guards left, and the closing of the channels
	left int
}

// New returns a Group in which nothing has begun.
func New() *Group { return &Group{closing: make(chan struct{}), idle: make(chan struct{})} }

// Begin announces work, which End is to follow. It reports false if it is too
// late: nobody would wait for it.
func (g *Group) Begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Closed() {
		return false
	}
	g.left++
	return true
}

// End says that work which Begin announced is done.
func (g *Group) End() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left--; g.left == 0 && g.Closed() {
		close(g.idle)
	}
}

// Close lets nothing begin any more. It may be called again.
func (g *Group) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Closed() {
		return
	}
	if close(g.closing); g.left == 0 {
		close(g.idle)
	}
}

// Closing is closed by Close.
func (g *Group) Closing() <-chan struct{} { return g.closing }

// Closed reports whether Close was called.
func (g *Group) Closed() bool { return isClosed(g.closing) }

// Wait waits until nothing is left after Close. It reports false if ctx ended
// before.
func (g *Group) Wait(ctx context.Context) bool {
	select {
	case <-g.idle:
	case <-ctx.Done():
	}
	return isClosed(g.idle)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
