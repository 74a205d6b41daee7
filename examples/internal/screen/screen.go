// Package screen shows what an example program does.
package screen

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Screen prints lines and, below them on a terminal, the progress so far, which
// stays in its place. Piped, the progress is a line among the others.
type Screen struct {
	out  io.Writer
	live bool

	mu     sync.Mutex // guards what follows, and keeps lines whole
	status string
}

// New returns a Screen over out, which may be a terminal or not. It is safe for
// concurrent use, and ignores errors of out as fmt.Println is mostly used.
func New(out io.Writer) *Screen { return &Screen{out: out, live: isTerminal(out)} }

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

const clearLine = "\r\x1b[K"

// Say prints a line with the time of day.
func (s *Screen) Say(text string) {
	s.line(time.Now().Format("15:04:05.000") + "  " + text)
}

func (s *Screen) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live {
		fmt.Fprint(s.out, clearLine, text, "\n", s.status)
		return
	}
	fmt.Fprintln(s.out, text)
}

// ShowProgress shows what progress returns, again and again until ctx ends.
func (s *Screen) ShowProgress(ctx context.Context, progress func() string) {
	every := time.NewTicker(s.pace())
	defer every.Stop()
	for {
		select {
		case <-every.C:
			s.show(progress())
		case <-ctx.Done():
			return
		}
	}
}

// pace is how often progress is worth showing.
func (s *Screen) pace() time.Duration {
	if s.live {
		return 100 * time.Millisecond
	}
	return time.Second
}

func (s *Screen) show(progress string) {
	if !s.live {
		s.line(progress)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = progress
	fmt.Fprint(s.out, clearLine, progress)
}

// Finish takes the progress away and prints a table.
func (s *Screen) Finish(table string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live {
		fmt.Fprint(s.out, clearLine)
	}
	fmt.Fprint(s.out, "\n", table)
}
