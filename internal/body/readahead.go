package body

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"sync"
)

// Limit is how much of a response body is read ahead, in bytes.
const Limit = 1 << 20

// ReadAhead returns a copy of resp whose body is read in the background, up to
// Limit, so that the connection is free for a refresh: the refresh may have to
// wait for it under MaxConnsPerHost. Whoever gets the response after all reads
// it as if nothing had happened, and as it comes. What is beyond Limit is left
// to them.
//
// A body that ends within Limit is closed by then, at most once together with
// the reader's Close, so that whatever counts open responses below no longer
// counts this one. A Read after Close returns http.ErrBodyReadAfterClose.
//
// The copy has a Trailer of its own, which is filled as the reader gets io.EOF,
// and by that goroutine; net/http fills resp.Trailer on the one that reads
// ahead. The other fields are shared. A trailer that was not announced changes
// the copy's field, so the copy should not be copied again before its end.
//
// resp must not be used any more. A nil Body counts as http.NoBody. The
// response to an upgrade must not be passed: its Body is also an io.Writer.
func ReadAhead(resp *http.Response) *http.Response {
	ahead := *resp
	if resp.Body == nil || resp.Body == http.NoBody {
		ahead.Body = http.NoBody
		return &ahead
	}
	ahead.Trailer = resp.Trailer.Clone()
	b := &readAheadBody{
		source: resp, reader: &ahead,
		closeSource: sync.OnceValue(resp.Body.Close), ended: make(chan struct{}),
	}
	b.changed.L = &b.mu
	ahead.Body = b
	go b.readAhead()
	return &ahead
}

// Discard closes the body of a response from ReadAhead that nobody will read.
// It first waits until the reading ahead has ended, as only then is the
// connection used again, but no longer than until ctx or bodyTimeout ends. Any
// other body is closed at once.
func Discard(ctx context.Context, clock Clock, resp *http.Response) {
	if b, ok := resp.Body.(*readAheadBody); ok {
		newWaiter(ctx, clock).wait(b.ended)
	}
	_ = resp.Body.Close() // nobody is left who could use the error
}

type readAheadBody struct {
	source      *http.Response
	closeSource func() error
	ended       chan struct{} // closed when the reading ahead has ended

	reader  *http.Response // the copy; its Trailer belongs to who reads
	trailer sync.Once

	mu      sync.Mutex // guards what follows
	changed sync.Cond
	buf     bytes.Buffer // read ahead and not taken yet
	done    bool         // nothing more is read ahead
	err     error        // of source, nil if the limit was reached
	closed  bool
}

func (b *readAheadBody) readAhead() {
	defer close(b.ended)
	p := make([]byte, 4<<10)
	for left, more := Limit, true; more; {
		n, err := b.source.Body.Read(p[:min(len(p), left)])
		left -= n
		more = b.add(p[:n], err, left == 0)
		if err != nil {
			_ = b.closeSource() // Close returns the error
		}
	}
}

// add takes in what the source gave, and reports whether there is more to read.
func (b *readAheadBody) add(p []byte, err error, full bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.buf.Write(p)
	b.done, b.err = err != nil || full, err
	b.changed.Broadcast()
	return !b.done
}

func (b *readAheadBody) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := b.take(p)
	if n == 0 && err == nil { // all that was read ahead is taken
		n, err = b.source.Body.Read(p)
	}
	if err == io.EOF {
		b.trailer.Do(b.copyTrailer)
	}
	return n, err
}

// take waits for something that is read ahead. It returns 0, nil if the rest is
// to be had from the source.
func (b *readAheadBody) take(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.buf.Len() == 0 && !b.done && !b.closed {
		b.changed.Wait()
	}
	switch {
	case b.closed:
		return 0, http.ErrBodyReadAfterClose
	case b.buf.Len() > 0:
		return b.buf.Read(p)
	default:
		return 0, b.err
	}
}

// copyTrailer runs after the source has ended: it is written to no more.
func (b *readAheadBody) copyTrailer() {
	if b.reader.Trailer == nil {
		b.reader.Trailer = b.source.Trailer
		return
	}
	maps.Copy(b.reader.Trailer, b.source.Trailer)
}

// Close does not wait for a Read of the source that hangs.
func (b *readAheadBody) Close() error {
	b.mu.Lock()
	b.closed = true
	b.buf = bytes.Buffer{}
	b.changed.Broadcast()
	b.mu.Unlock()
	return b.closeSource()
}
