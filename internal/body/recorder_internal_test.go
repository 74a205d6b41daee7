package body

import (
	"bytes"
	"io"
	"net/http"
	"testing"
)

func TestRecorder_TooLongABodyIsNotKeptInMemory(t *testing.T) {
	b := NewReplay(&http.Request{Body: io.NopCloser(bytes.NewReader(make([]byte, 1000)))}, 100)
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{b}, make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	if n := cap(b.kept.kept) + cap(b.kept.whole); n != 0 {
		t.Errorf("%d bytes are kept, want none", n)
	}
}
