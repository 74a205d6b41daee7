//go:build linux

package chaos_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/remote/remotetest"
)

// fault is something that befalls the processes, the API or the store.
type fault struct {
	name   string
	strike func(*rand.Rand) error // returns when it is over
}

// someTime is for how long a fault lasts.
func someTime(r *rand.Rand) time.Duration {
	return 100*time.Millisecond + time.Duration(r.Int64N(int64(800*time.Millisecond)))
}

// breath is what a store's client needs to get through between two faults: the
// stores try again every 250 ms at most. Faults in a row would be one long one,
// and outlast the lease.
const breath = 300 * time.Millisecond

// lane strikes with one fault after another, in random order, until there was
// enough of all and each of its own has struck.
func (c *chaos) lane(number uint64, deck []fault) {
	r := rand.New(rand.NewPCG(c.seed, number))
	for round := 0; round == 0 || c.faulty(); round++ {
		r.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		for _, f := range deck {
			if round > 0 && !c.faulty() {
				return
			}
			if err := f.strike(r); err != nil {
				c.t.Errorf("%s: %v", f.name, err)
				c.failed.Store(true)
				return
			}
			c.faults.add(f.name, 1)
			<-time.After(breath + someTime(r)/2)
		}
	}
}

// processFaults befall the workers at any moment.
func (c *chaos) processFaults() []fault {
	someone := func(r *rand.Rand) *process { return c.fleet.at(r.IntN(len(c.fleet.places))) }
	killed := fault{"process killed at random", func(r *rand.Rand) error { return c.fleet.replace(someone(r)) }}
	stopped := fault{"process stopped and continued", func(r *rand.Rand) error {
		p := someone(r)
		_ = p.cmd.Process.Signal(syscall.SIGSTOP) // it may be killed before,
		<-time.After(someTime(r))
		_ = p.cmd.Process.Signal(syscall.SIGCONT) // or while it is stopped
		return nil
	}}
	if testing.Short() {
		return []fault{killed, stopped, stopped} // most of such a round is the start of processes
	}
	return []fault{killed, killed, stopped}
}

const killedInstead = "process killed instead of the reply to its refresh"

const killedAfter = "process killed within 5 ms of the reply to its refresh"

// aimedFaults kill workers at the worst moment.
func (c *chaos) aimedFaults() []fault {
	shoot := func(name string) fault {
		return fault{name, func(r *rand.Rand) error {
			if hit, err := c.shoot(name, r, patience); hit || err != nil {
				return err
			}
			return errors.New("no refresh was granted")
		}}
	}
	return []fault{shoot(killedInstead), shoot(killedAfter)}
}

// shoot kills the next worker that is granted a refresh, and has another take its
// place. It reports whether there was one within a time.
func (c *chaos) shoot(name string, r *rand.Rand, within time.Duration) (hit bool, err error) {
	s := &shot{instead: name == killedInstead, after: time.Duration(r.Int64N(int64(5 * time.Millisecond))), hit: make(chan *process, 1)}
	c.api.aim.Store(s)
	select {
	case p := <-s.hit:
		return true, c.fleet.replace(p)
	case <-time.After(within):
	}
	if c.api.aim.CompareAndSwap(s, nil) {
		return false, nil
	}
	return true, c.fleet.replace(<-s.hit) // just now
}

// volley kills some workers, one after the other while the leases of the first have
// not ended, and then waits until others have what they were granted. So nobody is
// killed who takes over: that would be a second lease to wait for, and the end of
// the grace.
func (c *chaos) volley(kills int) fault {
	return fault{"volley of aimed kills", func(r *rand.Rand) error {
		var end time.Time
		for i := range kills {
			name, within := []string{killedInstead, killedAfter}[i%2], patience
			if i > 0 {
				within = time.Until(end)
			}
			hit, err := c.shoot(name, r, within)
			switch {
			case err != nil:
				return err
			case !hit && i == 0:
				return errors.New("no refresh was granted")
			case !hit:
				return c.awaitRecovery()
			case i == 0:
				end = time.Now().Add(c.lease / 2)
			}
			c.faults.add(name, 1)
		}
		return c.awaitRecovery()
	}}
}

func (c *chaos) awaitRecovery() error {
	for limit := time.Now().Add(patience); !c.ledger.recovered(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(limit) {
			return errors.New("what was granted to a process that was killed was saved by no other")
		}
	}
	return nil
}

// apiFaults befall the API.
func (c *chaos) apiFaults() []fault {
	trouble := func(name string, t trouble) fault {
		return fault{"API: " + name, func(r *rand.Rand) error {
			c.api.trouble.Store(&t)
			<-time.After(someTime(r))
			c.api.trouble.Store(nil)
			return nil
		}}
	}
	return []fault{
		trouble("answers 503", trouble503),
		trouble("answers 429", trouble429),
		trouble("slow", troubleSlow),
		trouble("hangs up before it has done anything", troubleDrop),
	}
}

var (
	trouble503  = trouble{status: http.StatusServiceUnavailable}
	trouble429  = trouble{status: http.StatusTooManyRequests, header: http.Header{"Retry-After": {"1"}}}
	troubleSlow = trouble{delay: 300 * time.Millisecond}
	troubleDrop = trouble{drop: true}
)

// server is the server of a store, with its data on a disk of its own.
type server struct {
	start   func() error
	service func() *remotetest.Service
	proxy   *proxy
	disk    *disk
	write   func()     // has the server take room on the disk, if it can
	refused func() int // how often it refused to, where that does not end it; may be nil

	mu      sync.Mutex    // held while a fault lasts, and guards what follows
	filled  time.Time     // when the disk was filled last
	ended   int           // how often the server ended because of that
	longest time.Duration // that it was away
}

// away is called when the server is there again.
func (s *server) away(since time.Time) { s.longest = max(s.longest, time.Since(since)) }

func (s *server) faults(c *chaos) []fault {
	hold := func(name string, begin, end func()) fault {
		return fault{name, func(r *rand.Rand) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			defer s.away(time.Now())
			begin()
			<-time.After(someTime(r))
			end()
			return nil
		}}
	}
	signal := func(sig syscall.Signal) func() { return func() { s.service().Signal(sig) } }
	behave := func(m manner) func() { return func() { s.proxy.set(m) } }
	cut := func() { c.faults.add("connections cut", s.proxy.cut()) }
	return []fault{
		{"server killed", func(r *rand.Rand) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			defer s.away(time.Now())
			s.kill()
			<-time.After(someTime(r) / 2)
			return s.restart()
		}},
		hold("server stopped and continued", signal(syscall.SIGSTOP), signal(syscall.SIGCONT)),
		hold("all connections cut", cut, func() {}),
		hold("connections refused", func() { s.proxy.set(refuses); cut() }, behave(passes)),
		hold("data delayed", behave(delays), behave(passes)),
		hold("data swallowed", behave(swallows), func() { s.proxy.set(passes); cut() }),
		{"disk full", s.full},
	}
}

// full fills the disk and has the server notice. If that ends the server, which
// may take it a while, superviseOnce starts it again.
func (s *server) full(r *rand.Rand) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filled = time.Now()
	return s.disk.full(someTime(r), s.write)
}

// supervise starts the server again whenever it has ended by itself, as a
// manager of services does, until ctx ends.
func (s *server) supervise(ctx context.Context) error {
	for pause(ctx, 10*time.Millisecond) {
		if err := s.superviseOnce(); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) superviseOnce() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.service().Ended() {
		return nil
	}
	s.ended++
	defer s.away(s.filled)
	return s.restart()
}

// metFullDisk reports whether the server has ended because its disk was full, or
// has refused to write.
func (s *server) metFullDisk() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended > 0 || s.refused != nil && s.refused() > 0
}

// kill ends all processes of the server.
func (s *server) kill() {
	s.service().Signal(syscall.SIGKILL)
	s.service().Stop(syscall.SIGKILL)
}

// restart tries until it works: PostgreSQL refuses while a process of the one
// before is left.
func (s *server) restart() (err error) {
	for end := time.Now().Add(patience); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		if err = s.start(); err == nil {
			return nil
		}
	}
	return err
}
