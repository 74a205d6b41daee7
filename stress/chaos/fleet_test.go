//go:build linux

package chaos_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// fleet is the workers. A place in it is taken by one process after another.
type fleet struct {
	order  order // of all, but for the name
	ledger *ledger

	replacing sync.Mutex // so that a place is taken once

	mu      sync.Mutex // guards what follows
	places  []*process
	started int
}

// process is a worker as the test sees it.
type process struct {
	name   string
	place  int
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
	said   chan string   // "ready", "works" or "stopped"; closed at the end
	ended  chan struct{} // closed when it has, and its journal was read
}

// start starts a worker at a place, instead of one that has ended.
func (f *fleet) start(place int) error {
	f.mu.Lock()
	f.started++
	o := f.order
	o.Name = fmt.Sprintf("worker-%d.%d", place+1, f.started)
	f.mu.Unlock()
	f.ledger.started(o.Name)
	p, err := newProcess(o, place)
	if err != nil {
		return err
	}
	started := make(chan error)
	go f.attend(p, started)
	if err := <-started; err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.places[place] = p
	return nil
}

func newProcess(o order, place int) (*process, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	p := &process{name: o.Name, place: place, cmd: exec.Command(os.Args[0]), said: make(chan string, 10), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), orderEnv+"="+string(text), "GORACE=atexit_sleep_ms=0 halt_on_error=1")
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	p.stdout, err = p.cmd.StdoutPipe()
	return p, err
}

// attend runs the process and reads its journal. It keeps to one thread, as
// Pdeathsig is sent when the thread ends that started the process.
func (f *fleet) attend(p *process, started chan<- error) {
	runtime.LockOSThread()
	defer close(p.ended)
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	for lines := bufio.NewScanner(p.stdout); lines.Scan(); {
		words := strings.Split(lines.Text(), "\t")
		switch words[0] {
		case "ready", "works", "stopped":
			p.said <- words[0]
		default:
			f.ledger.read(p.name, words)
		}
	}
	close(p.said)
	f.ledger.ended(p.name, p.cmd.Wait())
}

// kill ends a worker by SIGKILL, and returns when it and its journal have
// ended.
func (f *fleet) kill(p *process) {
	f.ledger.kill(p.name)
	_ = p.cmd.Process.Kill() // if it has ended by itself, the ledger says so
	<-p.ended
}

// replace ends a worker, unless somebody did, and has another take its place.
func (f *fleet) replace(p *process) error {
	f.replacing.Lock()
	defer f.replacing.Unlock()
	if f.at(p.place) != p {
		return nil
	}
	f.kill(p)
	return f.start(p.place)
}

// at returns who is at a place.
func (f *fleet) at(place int) *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.places[place]
}

// named returns the process of that name, nil if another has its place by now.
func (f *fleet) named(name string) *process {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.places {
		if p != nil && p.name == name {
			return p
		}
	}
	return nil
}

// tell says something to all workers and waits until all have answered.
func (f *fleet) tell(word, answer string, within time.Duration) error {
	for place := range f.places {
		if _, err := fmt.Fprintln(f.at(place).stdin, word); err != nil {
			return err
		}
	}
	return f.await(answer, within)
}

func (f *fleet) await(answer string, within time.Duration) error {
	limit := time.After(within)
	for place := range f.places {
		for said := ""; said != answer; {
			p, ok := f.at(place), true
			select {
			case said, ok = <-p.said:
				if !ok {
					return fmt.Errorf("%s ended before it said %q", p.name, answer)
				}
			case <-limit:
				return fmt.Errorf("%s has not said %q within %v", p.name, answer, within)
			}
		}
	}
	return nil
}

// stop has all workers end in order.
func (f *fleet) stop(within time.Duration) error {
	f.ledger.expectEnds()
	if err := f.tell("stop", "stopped", within); err != nil {
		return err
	}
	for place := range f.places {
		<-f.at(place).ended
	}
	return nil
}

// abandon kills what is left, after a failure.
func (f *fleet) abandon() {
	f.ledger.expectEnds()
	for place := range f.places {
		if p := f.at(place); p != nil && !p.over() {
			f.kill(p)
		}
	}
}

func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}
