package screen

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestProgressStaysInItsPlaceOnATerminal(t *testing.T) {
	var out bytes.Buffer
	s := &Screen{out: &out, live: true}
	s.show("1 request")
	s.line("refresh began")
	s.show("2 requests")
	s.Finish("table\n")
	const want = clearLine + "1 request" +
		clearLine + "refresh began\n" + "1 request" +
		clearLine + "2 requests" +
		clearLine + "\ntable\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestProgressIsALineASecondInAPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := New(&out)
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		s.ShowProgress(ctx, func() string { return "so far" })
		if want := strings.Repeat("so far\n", 3); out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	})
}
