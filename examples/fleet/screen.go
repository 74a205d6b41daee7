package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// screen prints lines and, below them on a terminal, the progress so far, which
// stays in its place. Piped, the progress is a line among the others.
type screen struct {
	out  io.Writer
	live bool

	mu     sync.Mutex // guards what follows, and keeps lines whole
	status string
}

func newScreen(out io.Writer) *screen { return &screen{out: out, live: isTerminal(out)} }

// isTerminal takes any character device for a terminal. The null device is one
// too, and does not mind.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// pace is how often progress is worth showing.
func (s *screen) pace() time.Duration {
	if s.live {
		return 100 * time.Millisecond
	}
	return time.Second
}

const clearLine = "\r\x1b[K"

func (s *screen) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live {
		fmt.Fprint(s.out, clearLine, text, "\n", s.status)
		return
	}
	fmt.Fprintln(s.out, text)
}

func (s *screen) progress(text string) {
	if !s.live {
		s.line(text)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = text
	fmt.Fprint(s.out, clearLine, text)
}

// finish takes the progress away and prints the table.
func (s *screen) finish(table string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live {
		fmt.Fprint(s.out, clearLine)
	}
	fmt.Fprint(s.out, "\n", table)
}
