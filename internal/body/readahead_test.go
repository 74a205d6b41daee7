package body_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth/internal/body"
)

func newResponse(source io.Reader) *http.Response {
	return &http.Response{StatusCode: 401, Body: io.NopCloser(source)}
}

func TestReadAhead_ReadsAsItsSource(t *testing.T) {
	for name, size := range map[string]int{
		"empty": 0, "short": 100, "a byte less than the limit": body.Limit - 1, "of the limit": body.Limit,
		"a byte more than the limit": body.Limit + 1, "three times the limit": 3 * body.Limit,
	} {
		t.Run(name, func(t *testing.T) {
			want := bytes.Repeat([]byte("a prime number of bytes, here 37 -..."), size/37+1)[:size]
			resp := body.ReadAhead(newResponse(bytes.NewReader(want)))
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, want %d, error %v", len(got), size, err)
			}
			_ = resp.Body.Close()
		})
	}
}

func TestReadAhead_IsAProperReader(t *testing.T) {
	want := []byte("some text")
	for name, source := range map[string]io.Reader{
		"of a plain source":                    bytes.NewReader(want),
		"of one byte at a time":                iotest.OneByteReader(bytes.NewReader(want)),
		"of a source that ends with its bytes": iotest.DataErrReader(bytes.NewReader(want)),
	} {
		t.Run(name, func(t *testing.T) {
			if err := iotest.TestReader(body.ReadAhead(newResponse(source)).Body, want); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReadAhead_EmptyReadReturnsAtOnce(t *testing.T) {
	out, _ := io.Pipe()
	resp := body.ReadAhead(&http.Response{Body: out})
	if n, err := resp.Body.Read(nil); n != 0 || err != nil {
		t.Errorf("%d bytes, error %v", n, err)
	}
	_ = resp.Body.Close()
}

func TestReadAhead_EndsWithTheErrorOfItsSource(t *testing.T) {
	for name, source := range map[string]io.Reader{
		"after the bytes": io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF)),
		"with the bytes": readerFunc(func(p []byte) (int, error) {
			return copy(p, "half"), io.ErrUnexpectedEOF
		}),
	} {
		t.Run(name, func(t *testing.T) {
			resp := body.ReadAhead(newResponse(source))
			for _, want := range []string{"half", ""} { // the error stays
				if got, err := io.ReadAll(resp.Body); err != io.ErrUnexpectedEOF || string(got) != want {
					t.Errorf("body %q, error %v, want %q", got, err, want)
				}
			}
		})
	}
}

func TestReadAhead_CopiesTheResponse(t *testing.T) {
	orig := &http.Response{StatusCode: 401, Header: http.Header{"A": {"b"}}, ContentLength: 4, Body: io.NopCloser(strings.NewReader("body"))}
	source := orig.Body
	resp := body.ReadAhead(orig)
	if resp == orig || orig.Body != source || resp.StatusCode != 401 || resp.Header.Get("A") != "b" || resp.ContentLength != 4 || resp.Trailer != nil {
		t.Errorf("got %+v from %+v", resp, orig)
	}
	_ = resp.Body.Close()
}

func TestReadAhead_ResponseWithoutBody(t *testing.T) {
	for name, source := range map[string]io.ReadCloser{"nil": nil, "http.NoBody": http.NoBody} {
		t.Run(name, func(t *testing.T) {
			orig := &http.Response{Body: source}
			resp := body.ReadAhead(orig)
			if resp.Body != http.NoBody || resp == orig || orig.Body != source {
				t.Errorf("body %v of a copy: %t, want http.NoBody of a copy", resp.Body, resp != orig)
			}
			body.Discard(t.Context(), noClock{t}, resp)
		})
	}
}

// chunk gives a byte every 100 ms, without an end.
var chunk = readerFunc(func(p []byte) (int, error) {
	time.Sleep(100 * time.Millisecond)
	p[0] = 'x'
	return 1, nil
})

func TestReadAhead_BodyReachesTheReaderAsItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		resp := body.ReadAhead(newResponse(chunk))
		time.Sleep(950 * time.Millisecond)
		began, got := time.Now(), make([]byte, 20)
		if _, err := io.ReadFull(resp.Body, got[:9]); err != nil || time.Since(began) != 0 {
			t.Errorf("9 bytes that were read ahead took %s, error %v", time.Since(began), err)
		}
		if _, err := io.ReadFull(resp.Body, got[9:]); err != nil || time.Since(began) != 1050*time.Millisecond {
			t.Errorf("11 bytes that take 1.05 s took %s, error %v", time.Since(began), err)
		}
		_ = resp.Body.Close()
		time.Sleep(100 * time.Millisecond) // the Read in progress; whoever reads on is found at the bubble's end
	})
}

func TestReadAhead_ReadsNoMoreThanTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := bytes.NewReader(make([]byte, 3*body.Limit))
		counted := newCountedBody(source)
		resp := body.ReadAhead(&http.Response{Body: counted})
		synctest.Wait()
		if n := 3*body.Limit - source.Len(); n != body.Limit {
			t.Errorf("%d bytes are read ahead, want %d", n, body.Limit)
		}
		counted.want(t, 0) // the rest is the reader's
		_ = resp.Body.Close()
		counted.want(t, 1)
	})
}

func TestReadAhead_SourceIsClosedAsSoonAsItHasEnded(t *testing.T) {
	for name, source := range map[string]io.Reader{
		"at its end":          strings.NewReader("body"),
		"with its last bytes": iotest.DataErrReader(strings.NewReader("body")),
		"at an error":         iotest.ErrReader(io.ErrUnexpectedEOF),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				counted := newCountedBody(source)
				resp := body.ReadAhead(&http.Response{Body: counted})
				synctest.Wait()
				counted.want(t, 1) // though nobody has read or closed the copy
				_, _ = io.ReadAll(resp.Body)
				for range 2 {
					_ = resp.Body.Close()
				}
				counted.want(t, 1)
			})
		})
	}
}

func TestReadAhead_CloseReturnsTheErrorOfTheSource(t *testing.T) {
	broken := errors.New("broken")
	resp := body.ReadAhead(&http.Response{Body: failingCloser{strings.NewReader("body"), broken}})
	for range 2 {
		if err := resp.Body.Close(); err != broken {
			t.Errorf("error %v, want the source's", err)
		}
	}
}

func TestReadAhead_CloseEndsTheBody(t *testing.T) {
	for name, size := range map[string]int{"that was read ahead": 100, "beyond the limit": 2 * body.Limit} {
		t.Run(name, func(t *testing.T) {
			resp := body.ReadAhead(newResponse(bytes.NewReader(make([]byte, size))))
			if _, err := resp.Body.Read(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if n, err := resp.Body.Read(make([]byte, 10)); n != 0 || err != http.ErrBodyReadAfterClose {
				t.Errorf("%d bytes after Close, error %v", n, err)
			}
		})
	}
}

func TestReadAhead_CloseEndsAReadThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newHungBody()
		resp := body.ReadAhead(&http.Response{Body: source})
		read := make(chan error)
		go func() { _, err := resp.Body.Read(make([]byte, 1)); read <- err }()
		synctest.Wait()
		_ = resp.Body.Close()
		if err := <-read; err != http.ErrBodyReadAfterClose {
			t.Errorf("the Read that waited: %v", err)
		}
		close(source.letGo)
		synctest.Wait()
		if n := source.closed.Load(); n != 1 {
			t.Errorf("closed %d times, want once", n)
		}
	})
}

func TestReadAhead_TrailersComeWithTheEndOfTheBody(t *testing.T) {
	for name, test := range map[string]struct {
		announced http.Header
		size      int
	}{
		"announced":                    {http.Header{"Sum": nil, "Other": nil}, 10},
		"not announced":                {nil, 10},
		"announced, beyond the limit":  {http.Header{"Sum": nil}, body.Limit + 10},
		"not announced, beyond it too": {nil, body.Limit + 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				orig := &http.Response{Trailer: test.announced.Clone()}
				rest := strings.NewReader(strings.Repeat("x", test.size))
				orig.Body = io.NopCloser(readerFunc(func(p []byte) (int, error) { // as net/http's
					n, err := rest.Read(p)
					if err == io.EOF {
						if orig.Trailer == nil {
							orig.Trailer = http.Header{}
						}
						orig.Trailer["Sum"] = []string{"42"}
					}
					return n, err
				}))
				resp := body.ReadAhead(orig)
				synctest.Wait()
				if _, err := io.ReadFull(resp.Body, make([]byte, test.size)); err != nil {
					t.Fatal(err)
				}
				if len(resp.Trailer) != len(test.announced) || resp.Trailer.Get("Sum") != "" {
					t.Errorf("trailers before the end: %v", resp.Trailer)
				}
				for range 2 { // the second io.EOF must not write: the trailers are the caller's by now
					if _, err := resp.Body.Read(make([]byte, 1)); err != io.EOF || resp.Trailer.Get("Sum") == "" {
						t.Errorf("error %v, trailers %v", err, resp.Trailer)
					}
					resp.Trailer.Set("Sum", "the caller's")
				}
				if got := resp.Trailer.Get("Sum"); got != "the caller's" {
					t.Errorf("the trailer was written again: %q", got)
				}
				_ = resp.Body.Close()
			})
		})
	}
}

func TestReadAhead_BodyThatFailsHasNoTrailers(t *testing.T) {
	orig := newResponse(iotest.ErrReader(io.ErrUnexpectedEOF))
	orig.Trailer = http.Header{"Sum": {"early"}}
	resp := body.ReadAhead(orig)
	resp.Trailer.Del("Sum")
	if _, err := io.ReadAll(resp.Body); err != io.ErrUnexpectedEOF || len(resp.Trailer) != 0 {
		t.Errorf("error %v, trailers %v", err, resp.Trailer)
	}
}

func TestDiscard_WaitsForTheEndOfTheBodyButNotLong(t *testing.T) {
	slow := func(d time.Duration) io.Reader {
		return readerFunc(func([]byte) (int, error) { time.Sleep(d); return 0, io.EOF })
	}
	for name, test := range map[string]struct {
		source io.Reader
		ctx    time.Duration
		takes  time.Duration
	}{
		"until it ends":                  {slow(700 * time.Millisecond), time.Hour, 700 * time.Millisecond},
		"for a second":                   {chunk, time.Hour, time.Second},
		"until the caller leaves":        {chunk, 300 * time.Millisecond, 300 * time.Millisecond},
		"until the limit":                {bytes.NewReader(make([]byte, 2*body.Limit)), time.Hour, 0},
		"not at all, as it has ended":    {strings.NewReader("body"), time.Hour, 0},
		"not at all, as it ends at once": {iotest.ErrReader(io.ErrUnexpectedEOF), time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.ctx)
				defer cancel()
				counted := newCountedBody(test.source)
				resp := body.ReadAhead(&http.Response{Body: counted})
				began := time.Now()
				body.Discard(ctx, realClock{}, resp)
				if took := time.Since(began); took != test.takes {
					t.Errorf("it took %s, want %s", took, test.takes)
				}
				if n := counted.closed.Load(); n != 1 {
					t.Errorf("closed %d times, want once", n)
				}
				time.Sleep(100 * time.Millisecond) // the Read in progress
				if _, err := resp.Body.Read(make([]byte, 1)); err != http.ErrBodyReadAfterClose {
					t.Errorf("a Read after Discard: %v", err)
				}
			})
		})
	}
}

func TestDiscard_ClosesAnyOtherBody(t *testing.T) {
	counted := newCountedBody(strings.NewReader("body"))
	body.Discard(t.Context(), noClock{t}, &http.Response{Body: counted})
	counted.want(t, 1)
}
