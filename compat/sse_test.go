package compat

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// serveEvents sends the event after the last one that the client has seen, and
// another when more is closed.
func serveEvents(more <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		again := more
		last, _ := strconv.Atoi(r.Header.Get("Last-Event-ID"))
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			last++
			fmt.Fprintf(w, "id: %d\ndata: a wallet has changed\n\n", last)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-again:
				again = nil
			case <-r.Context().Done():
				return
			}
		}
	}
}

// eventStream is a stream of server-sent events, of which only the ids matter
// here.
type eventStream struct {
	io.Closer
	lines *bufio.Scanner
}

func listen(ctx context.Context, client *http.Client, url string, last int) (*eventStream, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", strconv.Itoa(last))
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, done(resp, nil)
	}
	return &eventStream{resp.Body, bufio.NewScanner(resp.Body)}, nil
}

func (s *eventStream) next() (id int, err error) {
	for s.lines.Scan() {
		if text, ok := strings.CutPrefix(s.lines.Text(), "id: "); ok {
			return strconv.Atoi(text)
		}
	}
	return 0, errors.Join(s.lines.Err(), io.ErrUnexpectedEOF)
}

// Server-sent events pass as they come. A stream that is open outlives its
// token, unless the server ends it; a client that connects again has a new one.
//
// Care: no http.Client.Timeout, which would cut the stream. A context or the
// base transport's ResponseHeaderTimeout bounds the beginning alone.
func TestServerSentEvents(t *testing.T) {
	api := newStandIn(t)
	more := make(chan struct{})
	api.Handle("GET /events", serveEvents(more))
	client := &http.Client{Transport: api.transport()}

	open, err := listen(t.Context(), client, api.URL+"/events", 100)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	last := 0
	api.outlive(t, func(ctx context.Context) error {
		stream, err := listen(ctx, client, api.URL+"/events", last)
		if err != nil {
			return err
		}
		defer stream.Close()
		last, err = stream.next()
		return err
	})
	close(more)
	first, err1 := open.next()
	second, err2 := open.next()
	if last != 5 || first != 101 || second != 102 || err1 != nil || err2 != nil {
		t.Errorf("last event %d, want 5; on the open stream %d and %d (%v, %v)", last, first, second, err1, err2)
	}
}
