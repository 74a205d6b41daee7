package walletauthtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync"
)

// RoundTripper returns a transport that hands requests to the server in
// memory, whatever host they are for and whether it has a socket or not. Use
// it as [walletauth.Transport].Base in a synctest bubble, where sockets do not
// work. It behaves as a connection does: the request's body is closed, a
// request ends with its context, a reply reaches the client when the handler
// flushes it or returns, and a dropped connection is an error that wraps
// [io.EOF]. There is no flow control: a handler never waits for a client that
// does not read.
func (s *Server) RoundTripper() http.RoundTripper { return memoryTransport{s} }

type memoryTransport struct{ server *Server }

func (m memoryTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	in := incoming(ctx, r)
	if err := context.Cause(ctx); err != nil {
		cancel()
		_ = in.Body.Close()
		return nil, err
	}
	reply := newMemoryReply(cancel)
	go m.serve(reply, in)
	select {
	case <-reply.begun:
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
	if reply.status == 0 {
		return nil, fmt.Errorf("walletauthtest: the connection was dropped: %w", io.EOF)
	}
	return reply.response(r), nil
}

// serve closes the body of the request before the reply is over, so that a
// client that has read the reply finds it closed.
func (m memoryTransport) serve(reply *memoryReply, r *http.Request) {
	completed, body := false, r.Body // handlers may put another in its place
	defer func() {
		_ = body.Close()
		if p := recover(); p != nil && p != any(http.ErrAbortHandler) {
			panic(p)
		}
		reply.end(completed)
		reply.cancel()
	}()
	m.server.ServeHTTP(reply, r)
	completed = true
}

// incoming is the request as a server sees it.
func incoming(ctx context.Context, r *http.Request) *http.Request {
	in := r.Clone(ctx)
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/1.1", 1, 1
	in.RequestURI = r.URL.RequestURI()
	in.RemoteAddr = "192.0.2.1:1234" // RFC 5737: nobody's
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	if in.Header == nil {
		in.Header = make(http.Header)
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	return in
}

// memoryReply is the http.ResponseWriter of the handler and the body of the
// client's response.
type memoryReply struct {
	cancel context.CancelFunc // ends the request
	header http.Header        // the handler's own
	begun  chan struct{}      // closed when status and sent are final

	mu     sync.Mutex // guards all below; status and sent are free once begun
	status int        // 0: not written, or dropped
	sent   http.Header
	body   bytes.Buffer
	length int64         // of all that was written, read or not
	more   chan struct{} // closed and replaced when anything below changes
	open   bool          // begun is closed
	err    error         // how the body ends, nil while it goes on
}

var _ http.Flusher = (*memoryReply)(nil)

func newMemoryReply(cancel context.CancelFunc) *memoryReply {
	return &memoryReply{
		cancel: cancel, header: make(http.Header),
		begun: make(chan struct{}), more: make(chan struct{}),
	}
}

func (m *memoryReply) Header() http.Header { return m.header }

func (m *memoryReply) WriteHeader(status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writeHeader(status)
}

func (m *memoryReply) writeHeader(status int) {
	if m.status == 0 {
		m.status, m.sent = status, maps.Clone(m.header)
	}
}

func (m *memoryReply) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writeHeader(http.StatusOK)
	if m.err != nil {
		return 0, m.err
	}
	m.length += int64(len(p))
	m.changed()
	return m.body.Write(p)
}

// Flush lets the client see what was written so far.
func (m *memoryReply) Flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writeHeader(http.StatusOK)
	m.begin()
}

func (m *memoryReply) begin() {
	if m.open {
		return
	}
	if _, said := m.sent["Content-Type"]; !said && m.length > 0 {
		m.sent.Set("Content-Type", http.DetectContentType(m.body.Bytes())) // as net/http does
	}
	m.open = true
	close(m.begun)
}

func (m *memoryReply) changed() {
	close(m.more)
	m.more = make(chan struct{})
}

// end is called when the handler has returned or panicked.
func (m *memoryReply) end(completed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case completed:
		m.writeHeader(http.StatusOK)
		m.finish(m.complete())
	case m.open:
		m.finish(io.ErrUnexpectedEOF)
	default:
		m.status = 0 // nothing had left the server's buffer
	}
	m.begin()
}

// complete says how a body ends whose handler has returned.
func (m *memoryReply) complete() error {
	if m.length < m.declared() {
		return io.ErrUnexpectedEOF
	}
	return io.EOF
}

func (m *memoryReply) finish(err error) {
	if m.err == nil {
		m.err = err
		m.changed()
	}
}

// declared is Content-Length, -1 if the handler set none.
func (m *memoryReply) declared() int64 {
	n, err := strconv.ParseInt(m.sent.Get("Content-Length"), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func (m *memoryReply) response(r *http.Request) *http.Response {
	m.mu.Lock()
	defer m.mu.Unlock()
	length := m.declared()
	if length < 0 && m.err != nil {
		length = m.length
	}
	body := io.ReadCloser(replyBody{m, r.Context()})
	if r.Method == http.MethodHead {
		body = http.NoBody
	}
	return &http.Response{
		Status:     fmt.Sprintf("%d %s", m.status, http.StatusText(m.status)),
		StatusCode: m.status,
		Proto:      "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: m.sent, ContentLength: length, Body: body, Request: r,
	}
}

// replyBody is the client's end of a memoryReply.
type replyBody struct {
	*memoryReply
	ctx context.Context // the request's, since it ends the reading too
}

var errBodyClosed = errors.New("walletauthtest: read on closed response body")

func (b replyBody) Read(p []byte) (int, error) {
	for {
		n, more, err := b.next(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		select {
		case <-more:
		case <-b.ctx.Done():
			return 0, context.Cause(b.ctx)
		}
	}
}

func (b replyBody) next(p []byte) (n int, more <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.body.Len() == 0 {
		return 0, b.more, b.err
	}
	n, _ = b.body.Read(p) // not empty, so no error
	return n, nil, nil
}

// Close ends the request: a handler that still writes finds its context
// ended.
func (b replyBody) Close() error {
	b.mu.Lock()
	b.body.Reset()
	if b.err == nil || b.err == io.EOF {
		b.err = errBodyClosed
		b.changed()
	}
	b.mu.Unlock()
	b.cancel()
	return nil
}
