package body_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth/internal/body"
)

// realClock is the bubble's clock in a synctest bubble.
type realClock struct{}

func (realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// noClock fails the test of whoever waits.
type noClock struct{ t *testing.T }

func (c noClock) After(time.Duration) <-chan time.Time {
	c.t.Error("it waits, want that there is nothing to wait for")
	return nil
}

// countedBody counts what its users may do only once, or not at all.
type countedBody struct {
	io.Reader
	closed, late atomic.Int32
}

func newCountedBody(r io.Reader) *countedBody { return &countedBody{Reader: r} }

func (b *countedBody) Read(p []byte) (int, error) {
	if b.closed.Load() > 0 {
		b.late.Add(1)
		return 0, errors.New("read after Close")
	}
	return b.Reader.Read(p)
}

func (b *countedBody) Close() error { b.closed.Add(1); return nil }

func (b *countedBody) want(t *testing.T, closed int32) {
	t.Helper()
	if n := b.closed.Load(); n != closed {
		t.Errorf("closed %d times, want %d", n, closed)
	}
	if n := b.late.Load(); n != 0 {
		t.Errorf("read %d times after Close", n)
	}
}

// hungBody hangs in Read until it is let go, whether it is closed or not.
type hungBody struct {
	entered, letGo chan struct{}
	closed         atomic.Int32
}

func newHungBody() *hungBody {
	return &hungBody{entered: make(chan struct{}, 9), letGo: make(chan struct{})}
}

func (b *hungBody) Read([]byte) (int, error) {
	b.entered <- struct{}{}
	<-b.letGo
	return 0, io.EOF
}

func (b *hungBody) Close() error { b.closed.Add(1); return nil }

func newRequest(source io.Reader) *http.Request { return &http.Request{Body: io.NopCloser(source)} }

// sendAll reads b and closes it, as a base transport does.
func sendAll(t *testing.T, b *body.Replay) {
	t.Helper()
	if _, err := io.Copy(io.Discard, b); err != nil {
		t.Error(err)
	}
	_ = b.Close()
}

// wantRewound fails unless a second body, and a third by its GetBody, hold want.
func wantRewound(t *testing.T, b *body.Replay, want string) {
	t.Helper()
	second, getBody, ok := b.Rewind(t.Context(), realClock{})
	if !ok {
		t.Fatal("Rewind has no second body")
	}
	third, err := getBody()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []io.ReadCloser{second, third} {
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%d bytes, want %d, error %v", len(got), len(want), err)
		}
		_ = r.Close()
	}
}

func wantNotRewound(t *testing.T, b *body.Replay) {
	t.Helper()
	if second, getBody, ok := b.Rewind(t.Context(), realClock{}); ok || second != nil || getBody != nil {
		t.Errorf("Rewind: %t with body %v, want false", ok, second)
	}
}

func TestReplay_RequestWithoutBodyNeedsNone(t *testing.T) {
	for name, source := range map[string]io.ReadCloser{"nil": nil, "http.NoBody": http.NoBody} {
		t.Run(name, func(t *testing.T) {
			if b := body.NewReplay(&http.Request{Body: source}, 10); b != nil {
				t.Errorf("got %v, want nil", b)
			}
		})
	}
}

func TestReplay_KeptBodyIsHadTwice(t *testing.T) {
	for name, test := range map[string]struct {
		size          int
		length, limit int64
		twice         bool
	}{
		"of the limit":                       {10, 0, 10, true},
		"not a byte above the limit":         {11, 0, 10, false},
		"of a known length at the limit":     {10, 10, 10, true},
		"not of a known length above it":     {11, 11, 10, false},
		"of a length said to be unknown":     {10, -1, 10, true},
		"empty after all":                    {0, 0, 10, true},
		"empty where nothing else fits":      {0, 0, 0, true},
		"not a byte where nothing else fits": {1, 0, 0, false},
		"not shorter than announced":         {9, 10, 10, false},
		"not longer than announced":          {9, 8, 10, false},
		"not where keeping is off":           {1, 0, -1, false},
		"not empty where keeping is off":     {0, -1, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			sent := strings.Repeat("x", test.size)
			source := newCountedBody(strings.NewReader(sent))
			b := body.NewReplay(&http.Request{Body: source, ContentLength: test.length}, test.limit)
			sendAll(t, b)
			if test.twice {
				wantRewound(t, b, sent)
			} else {
				wantNotRewound(t, b)
			}
			b.Release()
			source.want(t, 1)
		})
	}
}

func TestReplay_FirstAttemptReadsTheSource(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789"), 1000)
	for name, test := range map[string]struct {
		limit   int64
		getBody func() (io.ReadCloser, error)
	}{
		"that is kept":     {1 << 20, nil},
		"that is too long": {100, nil},
		"that is not kept": {-1, nil},
		"with a GetBody":   {0, func() (io.ReadCloser, error) { return http.NoBody, nil }},
	} {
		t.Run(name, func(t *testing.T) {
			req := newRequest(bytes.NewReader(want))
			req.GetBody = test.getBody
			if err := iotest.TestReader(body.NewReplay(req, test.limit), want); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReplay_ReadsOnWhereTheTransportStopped(t *testing.T) {
	for name, read := range map[string]int{"at once": 0, "after some": 3, "before the end": 8, "at the end": 9} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := newCountedBody(strings.NewReader("some text"))
				b := body.NewReplay(&http.Request{Body: source}, 100)
				_, _ = io.ReadFull(b, make([]byte, read))
				_ = b.Close()
				if _, err := b.Read(make([]byte, 1)); err != http.ErrBodyReadAfterClose {
					t.Errorf("the transport reads what it has closed: %v", err)
				}
				wantRewound(t, b, "some text")
				b.Release()
				source.want(t, 1)
			})
		})
	}
}

func TestReplay_WaitsForTheSenderWhileTheTransportReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, in := io.Pipe()
		b := body.NewReplay(&http.Request{Body: out}, 100)
		go sendAll(t, b)
		go func() {
			for _, word := range []string{"one ", "two ", "three"} {
				time.Sleep(200 * time.Millisecond)
				_, _ = io.WriteString(in, word)
			}
			_ = in.Close()
		}()
		began := time.Now()
		wantRewound(t, b, "one two three")
		if took := time.Since(began); took != 600*time.Millisecond {
			t.Errorf("it took %s, want the sender's 600 ms", took)
		}
		b.Release()
	})
}

func TestReplay_AnnouncedLengthEndsAPipeThatStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, in := io.Pipe()
		defer in.Close()
		go func() { _, _ = io.WriteString(in, "body") }()
		b := body.NewReplay(&http.Request{Body: out, ContentLength: 4}, 100)
		_ = b.Close()
		began := time.Now()
		wantRewound(t, b, "body")
		if took := time.Since(began); took != 0 {
			t.Errorf("it waits for %s", took)
		}
		b.Release()
	})
}

func TestReplay_BodyThatIsNotHadInTime(t *testing.T) {
	for name, test := range map[string]struct {
		close bool          // by the transport
		ctx   time.Duration // zero: no end
		takes time.Duration
	}{
		"a silent sender is waited for a second":   {true, 0, time.Second},
		"a transport that reads on as well":        {false, 0, time.Second},
		"the caller's context ends the wait":       {true, 300 * time.Millisecond, 300 * time.Millisecond},
		"the caller's context, with the transport": {false, 300 * time.Millisecond, 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left at its end
				ctx := t.Context()
				if test.ctx > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.ctx)
					defer cancel()
				}
				out, in := io.Pipe()
				b := body.NewReplay(&http.Request{Body: out}, 100)
				if test.close {
					_ = b.Close()
				} else {
					go func() { _, _ = io.Copy(io.Discard, b) }()
				}
				began := time.Now()
				if _, _, ok := b.Rewind(ctx, realClock{}); ok {
					t.Error("Rewind has a body that the sender has not sent")
				}
				if took := time.Since(began); took != test.takes {
					t.Errorf("it took %s, want %s", took, test.takes)
				}
				b.Release()
				_ = b.Close()
				if _, err := in.Write([]byte("late")); err != io.ErrClosedPipe {
					t.Errorf("the sender's error %v, want that the body was closed", err)
				}
			})
		})
	}
}

func TestReplay_BodyThatIsNotHadAtAllIsNotWaitedFor(t *testing.T) {
	for name, source := range map[string]io.Reader{
		"as it fails":    io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("the disk broke"))),
		"as it is empty": iotest.ErrReader(io.ErrUnexpectedEOF),
		"as it is endless": readerFunc(func(p []byte) (int, error) {
			return len(p), nil
		}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := body.NewReplay(newRequest(source), 100)
				_ = b.Close()
				began := time.Now()
				wantNotRewound(t, b)
				if took := time.Since(began); took != 0 {
					t.Errorf("it waits for %s", took)
				}
				b.Release()
			})
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A sender whose Reads return nothing, again and again, is left alone after
// Release, though its Close does nothing.
func TestReplay_NobodyReadsOnAfterRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := readerFunc(func([]byte) (int, error) { time.Sleep(time.Millisecond); return 0, nil })
		b := body.NewReplay(newRequest(source), 100)
		_ = b.Close()
		wantNotRewound(t, b)
		b.Release()
		time.Sleep(time.Millisecond) // the Read in progress; whoever reads on is found at the bubble's end
	})
}

func TestReplay_SourceIsClosedOnce(t *testing.T) {
	type step struct {
		do     func(*body.Replay)
		closed int32
	}
	transport := func(b *body.Replay) { _ = b.Close() }
	roundTrip := func(b *body.Replay) { b.Release() }
	rewind := func(b *body.Replay) { _, _, _ = b.Rewind(context.Background(), realClock{}) }
	for name, test := range map[string]struct {
		limit   int64
		getBody bool
		steps   []step
	}{
		"of a kept body, by RoundTrip":                    {10, false, []step{{transport, 0}, {roundTrip, 1}, {transport, 1}}},
		"of a kept body, by the transport":                {10, false, []step{{roundTrip, 0}, {transport, 1}, {transport, 1}}},
		"of a kept body that is sent again":               {10, false, []step{{transport, 0}, {rewind, 0}, {roundTrip, 1}}},
		"of a body that is not kept, by the transport":    {-1, false, []step{{roundTrip, 0}, {transport, 1}, {transport, 1}}},
		"of a body that is not kept, before RoundTrip":    {-1, false, []step{{transport, 1}, {rewind, 1}, {roundTrip, 1}}},
		"of a body with GetBody, by the transport":        {10, true, []step{{transport, 1}, {rewind, 1}, {roundTrip, 1}}},
		"of a body with GetBody that is still being sent": {10, true, []step{{rewind, 1}, {transport, 1}, {roundTrip, 1}}},
		"of a body with GetBody that is not sent again":   {10, true, []step{{roundTrip, 0}, {transport, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := newCountedBody(strings.NewReader("body"))
				req := &http.Request{Body: source}
				if test.getBody {
					req.GetBody = func() (io.ReadCloser, error) { return http.NoBody, nil }
				}
				b := body.NewReplay(req, test.limit)
				for i, s := range test.steps {
					s.do(b)
					if n := source.closed.Load(); n != s.closed {
						t.Errorf("step %d: closed %d times, want %d", i, n, s.closed)
					}
				}
				source.want(t, 1)
			})
		})
	}
}

func TestReplay_CloseReturnsTheErrorOfTheSource(t *testing.T) {
	broken := errors.New("the disk broke")
	for name, limit := range map[string]int64{"kept": 10, "not kept": -1} {
		t.Run(name, func(t *testing.T) {
			b := body.NewReplay(&http.Request{Body: failingCloser{strings.NewReader(""), broken}}, limit)
			b.Release()
			if err := b.Close(); err != broken {
				t.Errorf("error %v, want the source's", err)
			}
		})
	}
}

type failingCloser struct {
	io.Reader
	err error
}

func (c failingCloser) Close() error { return c.err }

func TestReplay_CloseDoesNotWaitForAReadThatHangs(t *testing.T) {
	for name, getBody := range map[string]func() (io.ReadCloser, error){
		"of a kept body":         nil,
		"of a body with GetBody": func() (io.ReadCloser, error) { return http.NoBody, nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // which would find a deadlock
				source := newHungBody()
				b := body.NewReplay(&http.Request{Body: source, GetBody: getBody}, 100)
				go func() { _, _ = b.Read(make([]byte, 1)) }()
				<-source.entered
				_ = b.Close()
				b.Release()
				if n := source.closed.Load(); n != 1 {
					t.Errorf("closed %d times, want once", n)
				}
				if _, err := b.Read(make([]byte, 1)); err != http.ErrBodyReadAfterClose {
					t.Errorf("a Read after Close: %v", err)
				}
				close(source.letGo)
			})
		})
	}
}

func TestReplay_GetBodyServesTheSecondAttempt(t *testing.T) {
	calls := 0
	source := newCountedBody(strings.NewReader("body"))
	req := &http.Request{Body: source, ContentLength: 4, GetBody: func() (io.ReadCloser, error) {
		calls++
		return io.NopCloser(strings.NewReader("body")), nil
	}}
	b := body.NewReplay(req, -1) // GetBody is not bound by a limit
	sendAll(t, b)
	b2, getBody, ok := b.Rewind(t.Context(), noClock{t})
	if !ok || calls != 1 {
		t.Fatalf("ok: %t, GetBody was called %d times, want once", ok, calls)
	}
	b3, _ := getBody()
	for _, r := range []io.Reader{b2, b3} {
		if got, err := io.ReadAll(r); string(got) != "body" {
			t.Errorf("body %q, error %v", got, err)
		}
	}
	b.Release()
	source.want(t, 1)
}

func TestReplay_KeptBodyThatIsWholeIsNotWaitedFor(t *testing.T) {
	b := body.NewReplay(newRequest(strings.NewReader("body")), 10)
	if _, err := io.ReadAll(b); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, ok := b.Rewind(ended, noClock{t}); !ok {
		t.Error("Rewind has no second body")
	}
	b.Release()
}

func TestReplay_GetBodyThatFailsIsNoSecondBody(t *testing.T) {
	b := body.NewReplay(&http.Request{Body: io.NopCloser(strings.NewReader("body")), GetBody: func() (io.ReadCloser, error) {
		return nil, errors.New("the file is gone")
	}}, 10)
	wantNotRewound(t, b)
	b.Release()
}

// sharedBody is a body whose GetBody moves the one offset that all of them
// read from, as go-retryablehttp's is over an *os.File.
type sharedBody struct {
	io.ReadSeeker
	reading atomic.Int32 // Reads in progress
	overlap atomic.Bool
	pause   time.Duration // that a Read takes
}

func (b *sharedBody) Read(p []byte) (int, error) {
	if b.reading.Add(1) > 1 {
		b.overlap.Store(true)
	}
	defer b.reading.Add(-1)
	time.Sleep(b.pause)
	return b.ReadSeeker.Read(p)
}

func (b *sharedBody) getBody() (io.ReadCloser, error) {
	if b.reading.Load() > 0 {
		b.overlap.Store(true)
	}
	_, err := b.Seek(0, io.SeekStart)
	return io.NopCloser(b), err
}

func (b *sharedBody) request() *http.Request {
	return &http.Request{Body: io.NopCloser(b), GetBody: b.getBody}
}

func TestReplay_FirstAttemptIsStoppedBetweenTwoReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := strings.Repeat("0123456789", 1000)
		shared := &sharedBody{ReadSeeker: strings.NewReader(want), pause: 100 * time.Millisecond}
		b := body.NewReplay(shared.request(), 0)
		stopped := make(chan error)
		go func() {
			_, err := io.CopyBuffer(io.Discard, readerFunc(b.Read), make([]byte, 100))
			stopped <- err
		}()
		time.Sleep(150 * time.Millisecond) // into the second Read
		began := time.Now()
		second, _, ok := b.Rewind(t.Context(), realClock{})
		if took := time.Since(began); !ok || took != 50*time.Millisecond {
			t.Errorf("ok: %t after %s, want the rest of the Read in progress", ok, took)
		}
		if err := <-stopped; err != http.ErrBodyReadAfterClose {
			t.Errorf("the first attempt ended with %v", err)
		}
		if got, err := io.ReadAll(second); string(got) != want || err != nil {
			t.Errorf("the second attempt has %d bytes of %d, error %v", len(got), len(want), err)
		}
		if shared.overlap.Load() {
			t.Error("both attempts used the offset at one time")
		}
		b.Release()
	})
}

func TestReplay_FirstAttemptThatHangsInAReadGoesOn(t *testing.T) {
	for name, test := range map[string]struct{ ctx, takes time.Duration }{
		"after a second":                       {time.Hour, time.Second},
		"as soon as the caller's context ends": {300 * time.Millisecond, 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.ctx)
				defer cancel()
				const whole = "the whole text"
				shared := &sharedBody{ReadSeeker: strings.NewReader(whole), pause: time.Minute}
				b := body.NewReplay(shared.request(), 0)
				first := make(chan string)
				go func() { got, _ := io.ReadAll(b); first <- string(got) }()
				synctest.Wait()
				began := time.Now()
				_, _, ok := b.Rewind(ctx, realClock{})
				if took := time.Since(began); ok || took != test.takes {
					t.Errorf("ok: %t after %s, want false after %s", ok, took, test.takes)
				}
				b.Release()
				if got := <-first; got != whole || shared.overlap.Load() {
					t.Errorf("the first attempt read %q, want %q undisturbed", got, whole)
				}
			})
		})
	}
}

// An idle connection that the server has closed makes net/http call GetBody
// itself. What it reads from then on is still the first attempt.
func TestReplay_TransportsOwnRetryIsStoppedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := strings.Repeat("0123456789", 1000)
		shared := &sharedBody{ReadSeeker: strings.NewReader(want), pause: 100 * time.Millisecond}
		b := body.NewReplay(shared.request(), 0)
		_ = b.Close()
		retry, err := b.GetBody()
		if err != nil {
			t.Fatal(err)
		}
		stopped := make(chan error)
		go func() {
			_, err := io.CopyBuffer(io.Discard, retry, make([]byte, 100))
			stopped <- err
		}()
		time.Sleep(150 * time.Millisecond)
		second, _, ok := b.Rewind(t.Context(), realClock{})
		if !ok {
			t.Fatal("Rewind has no second body")
		}
		if got, err := io.ReadAll(second); string(got) != want || err != nil {
			t.Errorf("the second attempt has %d bytes of %d, error %v", len(got), len(want), err)
		}
		if err := <-stopped; err != http.ErrBodyReadAfterClose || shared.overlap.Load() {
			t.Errorf("the transport's retry ended with %v; overlap: %t", err, shared.overlap.Load())
		}
		if _, err := b.GetBody(); err != http.ErrBodyReadAfterClose {
			t.Errorf("a retry of the first attempt after Rewind: %v", err)
		}
		b.Release()
	})
}

func TestReplay_TransportsOwnRetryGetsTheErrorOfGetBody(t *testing.T) {
	gone := errors.New("the file is gone")
	b := body.NewReplay(&http.Request{
		Body:    io.NopCloser(strings.NewReader("body")),
		GetBody: func() (io.ReadCloser, error) { return nil, gone },
	}, 0)
	if _, err := b.GetBody(); err != gone {
		t.Errorf("error %v, want the caller's", err)
	}
}
