package body

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// A Replay is a request body for the base transport that RoundTrip can have a
// second time, with Rewind.
//
// If the request has a GetBody, the second body comes from there and nothing is
// kept. Otherwise the Replay keeps what is read, up to a limit.
type Replay struct {
	first   *attempt
	getBody func() (io.ReadCloser, error) // the request's, may be nil
	kept    *recorder                     // nil if nothing is kept

	mu       sync.Mutex // guards what follows
	attempts []*attempt // what the base transport may be reading: more than one if it retries by itself
	rewound  bool
}

// NewReplay returns the body to send instead of req.Body, or nil if req has no
// body, which is nil or http.NoBody. It reads req.Body, ContentLength and
// GetBody, and changes nothing.
//
// The limit is in bytes. Nothing is kept of a body that has a GetBody, or whose
// ContentLength is above the limit, or if the limit is negative. A
// ContentLength of zero means that the length is unknown, as everywhere in
// net/http where there is a body.
func NewReplay(req *http.Request, limit int64) *Replay {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	b := &Replay{getBody: req.GetBody}
	source := req.Body
	if req.GetBody == nil && limit >= 0 && req.ContentLength <= limit {
		b.kept = newRecorder(req, limit)
		source = b.kept
	}
	b.first = newAttempt(source)
	b.attempts = []*attempt{b.first}
	return b
}

// Read is for the base transport. Its errors are the source's, and
// http.ErrBodyReadAfterClose after Close or Rewind.
func (b *Replay) Read(p []byte) (int, error) { return b.first.Read(p) }

// Close is for the base transport. It never waits for a Read that hangs in the
// source. Its error is the source's. Only the first call does anything.
func (b *Replay) Close() error { return b.first.Close() }

// GetBody is for the base transport, to be set as the outgoing request's GetBody
// where the caller's request has one: net/http repeats a request by itself if
// the server closed an idle connection, and Rewind has to know about that body
// too. Its errors are the request's GetBody's, and http.ErrBodyReadAfterClose
// after Rewind.
func (b *Replay) GetBody() (io.ReadCloser, error) {
	b.mu.Lock() // also while getBody runs, which may move an offset that Rewind's body shares
	defer b.mu.Unlock()
	if b.rewound {
		return nil, http.ErrBodyReadAfterClose
	}
	source, err := b.getBody()
	if err != nil {
		return nil, err
	}
	a := newAttempt(source)
	b.attempts = append(b.attempts, a)
	return a, nil
}

// Rewind returns what to send the second time: a fresh body, and a GetBody for
// net/http's own retries of it. It is called at most once, before Release.
//
// If the request has a GetBody, Rewind stops the first attempt, which may still
// be sending: its next Read fails, and net/http gives its connection up. So what
// is needed of the response must have been read by then.
//
// ok is false if the body cannot be had a second time: it was too long, or it
// failed, or GetBody failed. It is also false if the first attempt hangs in a
// Read or the sender does not finish, and ctx or bodyTimeout ends meanwhile.
func (b *Replay) Rewind(ctx context.Context, clock Clock) (body io.ReadCloser, getBody func() (io.ReadCloser, error), ok bool) {
	getBody, ok = b.again(newWaiter(ctx, clock))
	if !ok {
		return nil, nil, false
	}
	body, err := getBody()
	if err != nil {
		return nil, nil, false
	}
	return body, getBody, true
}

func (b *Replay) again(w waiter) (getBody func() (io.ReadCloser, error), ok bool) {
	switch {
	case b.getBody != nil:
		return b.getBody, b.stop(w)
	case b.kept != nil:
		whole, ok := b.kept.rest(w)
		return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(whole)), nil }, ok
	default:
		return nil, false
	}
}

// stop takes the body away from the base transport. A body and the one that
// GetBody returns may share an offset, as they do if both read one file: then
// whatever the first attempt reads from here on would be missing in the second.
func (b *Replay) stop(w waiter) bool {
	b.mu.Lock()
	b.rewound = true
	attempts := b.attempts
	b.mu.Unlock()
	for _, a := range attempts {
		if !a.stop(w) {
			return false
		}
	}
	return true
}

// Release says that RoundTrip is done with the body. It is called once, always.
// The base transport may go on reading.
func (b *Replay) Release() {
	if b.kept != nil {
		b.kept.release()
	}
}

// An attempt is the body of one try to send a request.
type attempt struct {
	source    io.ReadCloser
	idle      chan struct{} // holds a token while nobody reads source
	closed    atomic.Bool
	closeOnce sync.Once
}

func newAttempt(source io.ReadCloser) *attempt {
	a := &attempt{source: source, idle: make(chan struct{}, 1)}
	a.idle <- struct{}{}
	return a
}

func (a *attempt) Read(p []byte) (int, error) {
	if a.closed.Load() { // at once, though another Read may hang
		return 0, http.ErrBodyReadAfterClose
	}
	<-a.idle
	defer func() { a.idle <- struct{}{} }()
	if a.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	return a.source.Read(p)
}

func (a *attempt) Close() (err error) {
	a.closeOnce.Do(func() {
		a.closed.Store(true)
		err = a.source.Close()
	})
	return err
}

// stop closes the body between two Reads, or not at all: an attempt that hangs
// in one goes on undisturbed, and with it the response it has got.
//
// The source is closed before GetBody is called, which is net/http's order too.
// The other way round, a GetBody that returns the same file again would have it
// closed while the second attempt reads it. Now such a GetBody fails instead.
func (a *attempt) stop(w waiter) bool {
	if !w.wait(a.idle) {
		return false
	}
	defer func() { a.idle <- struct{}{} }()
	_ = a.Close() // nobody is left who could use the error
	return true
}
