package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// replica is one of the three, seen from outside. It may have several lives,
// each a process of its own.
type replica struct {
	number int

	mu     sync.Mutex // guards what follows
	lives  int
	past   report // of the lives that are over
	now    report // of this one
	life   *life  // nil between two
	killed bool   // on purpose
	err    error  // why a life ended that should not have
}

// life is one process.
type life struct {
	process *os.Process
	stdin   io.Closer
	over    chan struct{} // closed when it has ended and all it said was heard
}

// start begins a life. What the process complains about goes to the standard
// error of this one.
func (r *replica) start(o order) error {
	program, err := os.Executable()
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), replicaEnv+"=1")
	cmd.Stderr = os.Stderr
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := cmp.Or(err, err1, err2); err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	l := &life{process: cmd.Process, stdin: stdin, over: make(chan struct{})}
	r.begin(l)
	go func() {
		defer close(l.over)
		r.listen(stdout)
		r.end(cmd.Wait())
	}()
	if err := json.NewEncoder(stdin).Encode(o); err != nil {
		return fmt.Errorf("replica %d takes no order: %w", r.number, err)
	}
	return nil
}

func (r *replica) begin(l *life) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lives++
	r.life, r.killed = l, false
}

// listen takes in reports until there are no more. A kill may cut the last one
// short, which is no line then and is left out.
func (r *replica) listen(stdout io.Reader) {
	for in := json.NewDecoder(stdout); ; {
		var said report
		if in.Decode(&said) != nil {
			_, _ = io.Copy(io.Discard, stdout) // or the process would wait to be read
			return
		}
		r.mu.Lock()
		r.now = said
		r.mu.Unlock()
	}
}

func (r *replica) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.past, r.now = r.past.plus(r.now), report{}
	r.life = nil
	if err != nil && !r.killed {
		r.err = fmt.Errorf("replica %d ended by itself: %w", r.number, err)
	}
}

// kill gives the process no chance to finish anything, and returns when it is
// gone.
func (r *replica) kill() error {
	r.mu.Lock()
	l := r.life
	r.killed = l != nil
	r.mu.Unlock()
	if l == nil {
		return fmt.Errorf("replica %d is not running", r.number)
	}
	if err := l.process.Kill(); err != nil {
		return err
	}
	<-l.over
	return nil
}

// stop asks the process to end and kills it if it does not: the Timeout of its
// client is 30 seconds, and nobody should have to wait for a request that long.
func (r *replica) stop() error {
	r.mu.Lock()
	l := r.life
	r.mu.Unlock()
	if l == nil {
		return r.failure()
	}
	_ = l.stdin.Close() // fails if the process is gone, which is what is wanted
	select {
	case <-l.over:
		return r.failure()
	case <-time.After(15 * time.Second):
		return errors.Join(fmt.Errorf("replica %d did not end when asked to", r.number), r.kill())
	}
}

func (r *replica) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// state is the replica in a word.
func (r *replica) state() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.life == nil {
		return "down"
	}
	return "up"
}

// served is how many requests the process that runs now has served.
func (r *replica) served() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now.Requests
}

// total is what it did in all its lives, and how many those are.
func (r *replica) total() (report, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.past.plus(r.now), r.lives
}

func (a report) plus(b report) report {
	return report{
		Requests: a.Requests + b.Requests, Failed: a.Failed + b.Failed,
		Refreshes: a.Refreshes + b.Refreshes, Adopted: a.Adopted + b.Adopted,
		Trouble: cmp.Or(a.Trouble, b.Trouble),
	}
}
