//go:build linux

package chaos_test

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands between the workers and the server of a store. It takes TCP and
// leads to a unix socket.
type proxy struct {
	listener net.Listener
	target   string

	mu     sync.Mutex // guards what follows
	links  map[*link]struct{}
	manner manner
}

// manner is what the proxy does with data.
type manner int

const (
	passes   manner = iota
	delays          // each piece, for a few milliseconds
	swallows        // what is sent is gone, while connections seem to stand
	refuses         // connections are closed as soon as they are there
)

// link is a connection and the one that it is led to.
type link struct{ here, there net.Conn }

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: listener, target: target, links: make(map[*link]struct{})}
	t.Cleanup(func() { _ = listener.Close(); p.cut() })
	go p.accept()
	return p
}

func (p *proxy) accept() {
	for {
		here, err := p.listener.Accept()
		if err != nil {
			return // it was closed
		}
		go p.lead(here)
	}
}

func (p *proxy) lead(here net.Conn) {
	there, err := net.Dial("unix", p.target)
	if err != nil { // the server is down
		_ = here.Close()
		return
	}
	l := &link{here, there}
	defer p.drop(l)
	if !p.add(l) {
		return
	}
	go func() { defer p.drop(l); p.carry(there, here) }()
	p.carry(here, there)
}

func (p *proxy) add(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links[l] = struct{}{}
	return p.manner != refuses
}

func (p *proxy) drop(l *link) {
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
	_, _ = l.here.Close(), l.there.Close() // the other direction may have done it
}

// carry moves data in one direction until either side is closed.
func (p *proxy) carry(to io.Writer, from io.Reader) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		switch p.now() {
		case swallows:
			continue
		case delays:
			<-time.After(rand.N(30 * time.Millisecond))
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) now() manner {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.manner
}

func (p *proxy) set(m manner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.manner = m
}

// cut closes all connections, and returns how many there were. Those to the
// workers are reset, so that what was on its way is lost.
func (p *proxy) cut() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		_ = l.here.(*net.TCPConn).SetLinger(0)
		_, _ = l.here.Close(), l.there.Close()
	}
	return len(p.links)
}
