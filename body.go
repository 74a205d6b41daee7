package walletauth

import (
	"context"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// patience bounds how long a request that got a 401 waits for the rest of a
// body: of its own, which the sender has not written yet, or of the 401.
const patience = time.Second

// replayBody passes a request body through to the base transport and keeps
// what was read, up to a limit, so that the request can be sent a second time.
//
// It also keeps the source open for longer than the base transport wants it: a
// transport that gets an early answer closes the body before all of it was
// read, and the replay needs the rest. The source is closed once, by whichever
// of the transport and RoundTrip is done with it last.
type replayBody struct {
	source io.ReadCloser
	limit  int64
	length int64 // of the whole, negative if unknown

	reading sync.Mutex // held while source is read; guards kept
	kept    []byte

	settled chan struct{} // closed once the next two are known
	whole   []byte
	isWhole bool

	users     atomic.Int32 // of the source: the base transport and RoundTrip
	closed    chan struct{}
	closeOnce sync.Once
	released  chan struct{}
}

// keepBody returns the body to send instead of req.Body, or nil if req can be
// sent again without one, or not at all.
func keepBody(req *http.Request, limit int64) *replayBody {
	if bodyless(req) || req.GetBody != nil || req.ContentLength > limit || limit < 0 {
		return nil
	}
	length := req.ContentLength
	if length == 0 { // which means unknown where there is a body
		length = -1
	}
	b := &replayBody{
		source: req.Body, limit: limit, length: length,
		settled: make(chan struct{}), closed: make(chan struct{}), released: make(chan struct{}),
	}
	b.users.Store(2)
	return b
}

func bodyless(req *http.Request) bool { return req.Body == nil || req.Body == http.NoBody }

// Read is for the base transport.
func (b *replayBody) Read(p []byte) (int, error) {
	select {
	case <-b.closed:
		return 0, http.ErrBodyReadAfterClose // from here on the source is ours
	default:
		return b.read(p)
	}
}

func (b *replayBody) read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	n, err := b.source.Read(p)
	b.keep(p[:n], err)
	return n, err
}

// keep takes in what the source gave, until it is settled whether all of it
// can be kept. Reaching the announced length settles it too: a sender may
// write that much and leave its end of a pipe open.
func (b *replayBody) keep(p []byte, err error) {
	if b.isSettled() {
		return
	}
	b.kept = append(b.kept, p...)
	size := int64(len(b.kept))
	switch {
	case size > b.limit, err != nil && err != io.EOF:
		b.settle(false)
	case size == b.length, err == io.EOF:
		b.settle(b.length < 0 || size == b.length)
	}
}

func (b *replayBody) settle(whole bool) {
	if whole {
		b.whole, b.isWhole = b.kept, true
	}
	b.kept = nil
	close(b.settled)
}

func (b *replayBody) isSettled() bool { return isClosed(b.settled) }

// Close is the base transport's. It must not wait for a Read that hangs in the
// source, hence no mutex.
func (b *replayBody) Close() (err error) {
	b.closeOnce.Do(func() {
		close(b.closed)
		err = b.leave()
	})
	return err
}

// release is RoundTrip's Close. It is called once.
func (b *replayBody) release() {
	close(b.released)
	_ = b.leave() // the caller of RoundTrip asked for a response, not for this
}

func (b *replayBody) leave() error {
	if b.users.Add(-1) > 0 {
		return nil
	}
	return b.source.Close()
}

// rest waits until the whole body is known, reading on where the base
// transport stopped. It gives up when ctx ends, or soon: a body that is still
// being written is not worth holding a 401 back for.
func (b *replayBody) rest(ctx context.Context, clock Clock) (whole []byte, ok bool) {
	go b.readOn()
	select {
	case <-b.settled:
		return b.whole, b.isWhole
	case <-clock.After(patience):
	case <-ctx.Done():
	}
	return nil, false
}

func (b *replayBody) readOn() {
	select {
	case <-b.closed:
	case <-b.released:
		return
	}
	p := make([]byte, 4<<10)
	for !b.isSettled() {
		if _, err := b.read(p); err != nil {
			return
		}
	}
}

// heldBody is the body of a 401 while a refresh runs. It is read ahead, so that
// the connection is free for the refresh, which may have to wait for it under
// MaxConnsPerHost. Who gets the 401 after all reads it as if nothing had
// happened, and as it comes.
type heldBody struct {
	source io.ReadCloser
	filled chan struct{} // closed when the reading ahead has ended
	grew   chan struct{} // has room for one: the reader looks at all that is new

	mu   sync.Mutex // guards what follows
	head []byte     // read ahead
	err  error      // of source, nil if it was left at maxReply
}

func holdBody(source io.ReadCloser) *heldBody {
	h := &heldBody{source: source, filled: make(chan struct{}), grew: make(chan struct{}, 1)}
	go h.fill()
	return h
}

func (h *heldBody) fill() {
	defer close(h.filled)
	ahead := io.LimitReader(h.source, maxReply)
	p := make([]byte, 4<<10)
	for total := 0; total < maxReply; {
		n, err := ahead.Read(p)
		total += n
		h.add(p[:n], err)
		if err != nil {
			return
		}
	}
}

func (h *heldBody) add(p []byte, err error) {
	h.mu.Lock()
	h.head, h.err = append(h.head, p...), err
	h.mu.Unlock()
	select {
	case h.grew <- struct{}{}:
	default:
	}
}

func (h *heldBody) Read(p []byte) (int, error) {
	for len(p) > 0 {
		filled := isClosed(h.filled) // so that all that was read ahead is there to be taken
		if n, err := h.take(p); n > 0 || err != nil {
			return n, err
		}
		if filled {
			return h.source.Read(p)
		}
		select {
		case <-h.grew:
		case <-h.filled:
		}
	}
	return 0, nil
}

func (h *heldBody) take(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.head) == 0 {
		return 0, h.err
	}
	n := copy(p, h.head)
	h.head = h.head[n:]
	return n, nil
}

// peek returns the whole of what is read ahead, without taking it from the
// reader.
func (h *heldBody) peek() []byte {
	<-h.filled
	return h.head
}

func (h *heldBody) Close() error { return h.source.Close() }

// discard closes a body that nobody will read, after it was read to its end if
// that comes soon: only then is the connection used again.
func (h *heldBody) discard(ctx context.Context, clock Clock) {
	select {
	case <-h.filled:
	case <-clock.After(patience):
	case <-ctx.Done():
	}
	_ = h.Close()
}
