package body_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/walletauth/walletauth/internal/body"
)

func TestPeek_LeavesTheBodyWhole(t *testing.T) {
	want := []byte("some text that is longer than what is looked at")
	for name, limit := range map[string]int64{"nothing": 0, "a part": 9, "all": int64(len(want)), "more than there is": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			resp := newResponse(bytes.NewReader(want))
			seen, err := body.Peek(resp, limit)
			if n := min(int(limit), len(want)); err != nil || !bytes.Equal(seen, want[:n]) {
				t.Errorf("saw %q, %v, want %d bytes", seen, err, n)
			}
			if err := iotest.TestReader(resp.Body, want); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestPeek_ErrorOfTheSourceComesAfterWhatWasRead(t *testing.T) {
	broken := errors.New("broken")
	resp := newResponse(io.MultiReader(strings.NewReader("some"), iotest.ErrReader(broken)))
	if seen, err := body.Peek(resp, 100); string(seen) != "some" || err != broken {
		t.Errorf("saw %q, %v", seen, err)
	}
	if got, err := io.ReadAll(resp.Body); string(got) != "some" || err != broken {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestPeek_CloseReachesTheSource(t *testing.T) {
	source := &closed{Reader: strings.NewReader("text")}
	resp := &http.Response{Body: source}
	_, _ = body.Peek(resp, 2)
	if err := resp.Body.Close(); err != nil || source.times != 1 {
		t.Errorf("closed %d times, %v", source.times, err)
	}
}

// closed counts how often it was closed.
type closed struct {
	io.Reader
	times int
}

func (c *closed) Close() error { c.times++; return nil }
