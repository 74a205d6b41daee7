package body

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// A recorder passes a body through and keeps what was read, up to a limit.
//
// It also keeps the source open for longer than the base transport wants it: a
// transport that gets an early response closes the body before all of it was
// read, and the replay needs the rest. The source is closed once, by whichever
// of the transport and RoundTrip is done with it last.
type recorder struct {
	source io.ReadCloser
	limit  int64
	length int64 // of the whole, negative if unknown

	reading sync.Mutex // held while source is read; guards kept
	kept    []byte

	known   chan struct{} // closed once the next two are final
	whole   []byte
	isWhole bool

	users    atomic.Int32 // of the source: the base transport and RoundTrip
	closed   chan struct{}
	released chan struct{}
}

func newRecorder(req *http.Request, limit int64) *recorder {
	length := req.ContentLength
	if length == 0 { // which means unknown where there is a body
		length = -1
	}
	r := &recorder{
		source: req.Body, limit: limit, length: length,
		known: make(chan struct{}), closed: make(chan struct{}), released: make(chan struct{}),
	}
	r.users.Store(2)
	return r
}

func (r *recorder) Read(p []byte) (int, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	n, err := r.source.Read(p)
	r.record(p[:n], err)
	return n, err
}

// record takes in what the source gave, until it is known whether all of it can
// be kept. Reaching the announced length is enough to know: a sender may write
// that much and leave its end of a pipe open.
func (r *recorder) record(p []byte, err error) {
	if isClosed(r.known) {
		return
	}
	r.kept = append(r.kept, p...)
	size := int64(len(r.kept))
	switch {
	case size > r.limit, err != nil && err != io.EOF:
		r.finish(false)
	case size == r.length, err == io.EOF:
		r.finish(r.length < 0 || size == r.length)
	}
}

func (r *recorder) finish(whole bool) {
	if whole {
		r.whole, r.isWhole = r.kept, true
	}
	r.kept = nil
	close(r.known)
}

// Close is the base transport's, which calls it once. It must not wait for a
// Read that hangs in the source, hence no mutex.
func (r *recorder) Close() error {
	close(r.closed)
	return r.leave()
}

// release is RoundTrip's Close.
func (r *recorder) release() {
	close(r.released)
	_ = r.leave() // the caller of RoundTrip asked for a response, not for this
}

func (r *recorder) leave() error {
	if r.users.Add(-1) > 0 {
		return nil
	}
	return r.source.Close()
}

// rest waits until the whole body is known, reading on where the base
// transport stopped. It gives up soon: a body that is still being written is
// not worth holding a 401 back for.
func (r *recorder) rest(w waiter) (whole []byte, ok bool) {
	if !isClosed(r.known) {
		go r.readOn()
	}
	if !w.wait(r.known) {
		return nil, false
	}
	return r.whole, r.isWhole
}

// readOn begins once the base transport is done, and ends with RoundTrip.
func (r *recorder) readOn() {
	select {
	case <-r.closed:
	case <-r.known:
	case <-r.released:
	}
	p := make([]byte, 4<<10)
	for !isClosed(r.known) && !isClosed(r.released) {
		if _, err := r.Read(p); err != nil {
			return
		}
	}
}
