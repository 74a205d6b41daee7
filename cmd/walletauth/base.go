package main

import (
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// connectTimeout lets a packet or two be lost on the way; who waits at a
// terminal should not wait for the half minute that net/http allows.
const connectTimeout = 3 * time.Second

// base sends requests and knows, at the end, whether an answer may still come
// that has to be stored.
type base struct {
	http.RoundTripper

	mu       sync.Mutex // guards all below
	failure  error      // the network's, the last one
	inFlight int
	granted  bool // something was answered 2xx: a new session perhaps
	closing  bool
	idle     chan struct{} // closed once nothing can come any more
}

func newBase() *base {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}).DialContext
	t.TLSHandshakeTimeout = connectTimeout
	return &base{RoundTripper: t, idle: make(chan struct{})}
}

var errClosing = errors.New("the program is ending")

// RoundTrip sends a request unless the program is ending.
func (b *base) RoundTrip(req *http.Request) (*http.Response, error) {
	if !b.begin() {
		if req.Body != nil {
			_ = req.Body.Close() // nobody reads it
		}
		return nil, errClosing
	}
	resp, err := b.RoundTripper.RoundTrip(req)
	b.end(resp, err)
	return resp, err
}

func (b *base) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closing {
		b.inFlight++
	}
	return !b.closing
}

func (b *base) end(resp *http.Response, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight--
	if err != nil {
		b.failure = err
	} else if resp.StatusCode/100 == 2 {
		b.granted = true
	}
	b.closeIfIdle()
}

// close lets no further request begin. The channel is closed once nothing is in
// flight, unless there is a new session to store.
func (b *base) close() (idle <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closing {
		b.closing = true
		b.closeIfIdle()
	}
	return b.idle
}

func (b *base) closeIfIdle() {
	if b.closing && b.inFlight == 0 && !b.granted {
		close(b.idle)
	}
}

func (b *base) lastFailure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failure
}
