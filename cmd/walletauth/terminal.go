package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// terminal is standard error: progress and colours where a person looks at it,
// plain lines everywhere else.
type terminal struct {
	mu     sync.Mutex // guards file: a line of the log and progress may meet
	file   io.Writer
	live   bool // a person is there
	colour bool
}

func newTerminal(f *os.File) *terminal {
	live := term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
	return &terminal{file: f, live: live, colour: live && os.Getenv("NO_COLOR") == ""}
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.file.Write(p)
}

func (t *terminal) red(s string) string    { return t.paint("31", s) }
func (t *terminal) green(s string) string  { return t.paint("32", s) }
func (t *terminal) yellow(s string) string { return t.paint("33", s) }

func (t *terminal) paint(code, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

const (
	quiet     = 400 * time.Millisecond // what is done by then needs no progress
	clearLine = "\r\x1b[K"
)

// wait runs fn and shows what is waited for, and for how long, on a terminal.
func (t *terminal) wait(ctx context.Context, what string, fn func(context.Context) error) error {
	if !t.live {
		return fn(ctx)
	}
	done := make(chan struct{})
	var shown sync.WaitGroup
	shown.Go(func() { t.progress(what, done) })
	err := fn(ctx)
	close(done)
	shown.Wait()
	return err
}

func (t *terminal) progress(what string, done <-chan struct{}) {
	select {
	case <-done:
		return
	case <-time.After(quiet):
	}
	began := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	defer func() { _, _ = io.WriteString(t, clearLine) }()
	for i := 0; ; i++ {
		_, _ = fmt.Fprintf(t, "%s%c %s %d s", clearLine, `|/-\`[i%4], what, int((time.Since(began) + quiet).Seconds()))
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}
