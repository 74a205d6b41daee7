package walletauth

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

func TestNothingIsKeptWhereNothingHasToBe(t *testing.T) {
	again := func() (io.ReadCloser, error) { return http.NoBody, nil }
	body := io.NopCloser(strings.NewReader("body"))
	for name, test := range map[string]struct {
		req   http.Request
		limit int64
		kept  bool
	}{
		"no body":                    {http.Request{}, 10, false},
		"http.NoBody":                {http.Request{Body: http.NoBody}, 10, false},
		"GetBody gets it again":      {http.Request{Body: body, GetBody: again}, 10, false},
		"it is known to be too long": {http.Request{Body: body, ContentLength: 11}, 10, false},
		"keeping is off":             {http.Request{Body: body, ContentLength: -1}, -1, false},
		"it may fit":                 {http.Request{Body: body, ContentLength: -1}, 10, true},
		"it fits":                    {http.Request{Body: body, ContentLength: 10}, 10, true},
	} {
		t.Run(name, func(t *testing.T) {
			if kept := keepBody(&test.req, test.limit) != nil; kept != test.kept {
				t.Errorf("kept: %t, want %t", kept, test.kept)
			}
		})
	}
}

func TestKeptBodyReadsAsItsSource(t *testing.T) {
	want := bytes.Repeat([]byte("0123456789"), 1000)
	for name, limit := range map[string]int64{"that fits": 1 << 20, "that does not fit": 100} {
		t.Run("a body "+name, func(t *testing.T) {
			req := &http.Request{Body: io.NopCloser(bytes.NewReader(want))}
			if err := iotest.TestReader(keepBody(req, limit), want); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTooLongABodyIsNotKeptInMemory(t *testing.T) {
	b := keepBody(&http.Request{Body: io.NopCloser(bytes.NewReader(make([]byte, 1000)))}, 100)
	if _, err := io.Copy(io.Discard, b); err != nil {
		t.Fatal(err)
	}
	if b.kept != nil || b.whole != nil {
		t.Errorf("%d bytes are kept, want none", len(b.kept)+len(b.whole))
	}
}

func TestHeldBodyReadsAsItsSource(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "short": 100, "of what is held": maxReply, "longer": maxReply + 5000} {
		t.Run(name, func(t *testing.T) {
			want := bytes.Repeat([]byte("x"), size)
			got, err := io.ReadAll(holdBody(io.NopCloser(bytes.NewReader(want))))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, error %v", len(got), err)
			}
		})
	}
}

func TestHeldBodyIsAProperReader(t *testing.T) {
	want := []byte("some text")
	if err := iotest.TestReader(holdBody(io.NopCloser(bytes.NewReader(want))), want); err != nil {
		t.Error(err)
	}
}

func TestHeldBodyEndsWithTheErrorOfItsSource(t *testing.T) {
	source := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(io.ErrUnexpectedEOF))
	held := holdBody(io.NopCloser(source))
	for range 2 { // the error stays
		got, err := io.ReadAll(held)
		if err != io.ErrUnexpectedEOF || len(got) > 4 {
			t.Errorf("body %q, error %v", got, err)
		}
	}
}

func TestHeldBodyHoldsNoMoreThanItMay(t *testing.T) {
	held := holdBody(io.NopCloser(bytes.NewReader(make([]byte, 3*maxReply))))
	if n := len(held.peek()); n != maxReply {
		t.Errorf("%d bytes are held, want %d", n, maxReply)
	}
}
