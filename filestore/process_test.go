package filestore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/walletauthtest"
)

// countWorker adds one to the session's number, args[0] times.
func countWorker(w *workerSide) error {
	st := w.store()
	for range w.number(0) {
		err := st.Update(context.Background(), "k", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			if s == nil {
				return session(1), nil
			}
			return session(int(s.CreatedAt.Sub(epoch)/time.Second) + 1), nil
		})
		if err != nil {
			return err
		}
	}
	fmt.Println("done")
	return nil
}

func TestNoUpdateOfEightProcessesIsLost(t *testing.T) {
	const processes, each = 8, 25
	dir := private(t)
	var running []*process
	for range processes {
		running = append(running, start(t, "count", dir, each))
	}
	for _, p := range running {
		p.expect("done")
		if err := p.wait(); err != nil {
			t.Error(err)
		}
	}
	if got := load(t, &filestore.Store{Dir: dir}, "k"); got != processes*each {
		t.Errorf("%d updates were counted, want %d", got, processes*each)
	}
}

// echoWorker stores session n for each line "n", deletes for "0", and says so
// when it is done.
func echoWorker(w *workerSide) error {
	st := w.store()
	for line := range w.lines {
		var n int
		if _, err := fmt.Sscan(line, &n); err != nil {
			return err
		}
		fn := put(n)
		if n == 0 {
			fn = func(context.Context, *walletauth.Session) (*walletauth.Session, error) { return nil, nil }
		}
		if err := st.Update(context.Background(), "k", fn); err != nil {
			return err
		}
		fmt.Println(line)
	}
	return nil
}

// The very next Load sees what another process stored: no interval, no
// notification that could be late.
func TestLoadSeesAnotherProcessAtOnce(t *testing.T) {
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	other := start(t, "echo", dir)
	for n := 1; n <= 300; n++ {
		if n%10 == 0 {
			other.say("0")
			other.expect("0")
			if s, err := st.Load(t.Context(), "k"); !errors.Is(err, walletauth.ErrNoSession) {
				t.Fatalf("deleted and still there: %v, %v", s, err)
			}
			continue
		}
		other.say(fmt.Sprint(n))
		other.expect(fmt.Sprint(n))
		if got := load(t, st, "k"); got != n {
			t.Fatalf("session %d was stored and %d loaded", n, got)
		}
	}
}

// holdWorker enters an Update and stays there until it hears something.
func holdWorker(w *workerSide) error {
	return w.store().Update(context.Background(), "k", func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
		fmt.Println("held")
		<-w.lines
		return session(2), nil
	})
}

func TestLockOfAKilledProcessIsFreeAtOnce(t *testing.T) {
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	save(t, st, "k", 1)
	for range 20 {
		holder := start(t, "hold", dir)
		holder.expect("held")
		holder.kill()
		lock := flock.New(only(t, dir, ".lock"))
		free, err := lock.TryLock() // at once: a lease of any length would outlast this
		if err != nil || !free {
			t.Fatalf("the lock is free: %v, %v", free, err)
		}
		must(t, lock.Unlock())
		must(t, st.Update(t.Context(), "k", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			if number(t, s) != 1 {
				t.Errorf("the killed process left session %d", number(t, s))
			}
			return s, nil
		}))
	}
}

func TestWaitingForAnotherProcessEndsWithTheContext(t *testing.T) {
	dir := private(t)
	holder := start(t, "hold", dir)
	holder.expect("held")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	st := &filestore.Store{Dir: dir}
	err := st.Update(ctx, "k", func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
		t.Error("fn runs while another process holds the lock")
		return nil, nil
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the context's", err)
	}
	if lock := only(t, dir, ".lock"); err == nil || !strings.Contains(err.Error(), lock) {
		t.Errorf("error %v does not name %s", err, lock)
	}
	holder.say("go on")
	if err := holder.wait(); err != nil {
		t.Fatal(err)
	}
	if got := load(t, st, "k"); got != 2 {
		t.Errorf("session %d, want the holder's", got)
	}
}

// writeWorker stores one session after the other as fast as it can, and says
// each number when it is stored. It says first what it found.
func writeWorker(w *workerSide) error {
	st := w.store()
	for {
		var n int
		err := st.Update(context.Background(), "k", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			if s != nil {
				n = int(s.CreatedAt.Sub(epoch) / time.Second)
			}
			n++
			return session(n), nil
		})
		if err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// Two hundred writers are killed at random moments. Whatever the moment, the
// file is the last session that was reported stored, or the one that was being
// stored, and whole; so it is for a reader at every moment between.
func TestKilledWriterLeavesTheOldSessionOrTheNew(t *testing.T) {
	least := 200 // kills, of which a twentieth hit a write: else they prove little
	if testing.Short() {
		least = 20
	}
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	save(t, st, "k", 1)
	stopReading := readAllTheTime(t, dir)
	stored, kills, inside, unreported := 1, 0, 0, 0
	for ; kills < least || inside < least/20; kills++ {
		writer := start(t, "write", dir)
		stored = reported(t, writer, stored, 1)
		pause(t, rand.N(10*time.Millisecond))
		writer.kill()
		stored = reported(t, writer, stored, 1<<30)
		switch got := load(t, st, "k"); got {
		case stored:
		case stored + 1:
			unreported++
			stored++
		default:
			t.Fatalf("session %d was stored last, and %d is in the file", stored, got)
		}
		if _, err := os.Lstat(strings.TrimSuffix(only(t, dir, ".session"), ".session") + ".tmp"); err == nil {
			inside++
		} else if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	reads := stopReading()
	t.Logf("%d kills, %d of them with the temporary file still there, %d between the rename and the report; %d sessions stored, %d read meanwhile", kills, inside, unreported, stored, reads)
	save(t, st, "k", stored+1)
	if left, err := filepath.Glob(filepath.Join(dir, "*.tmp")); err != nil || len(left) > 0 {
		t.Errorf("left over after the next Update: %q (%v)", left, err)
	}
}

// reported reads up to max of the writer's lines, each the number after the
// one before, and returns the last.
func reported(t *testing.T, writer *process, last, max int) int {
	t.Helper()
	for range max {
		line, ok := writer.line()
		if !ok {
			break
		}
		if line != fmt.Sprint(last+1) {
			t.Fatalf("the writer stored %q after %d: a session was lost or stored twice", line, last)
		}
		last++
	}
	return last
}

// readAllTheTime loads without a pause from a Store of its own, and fails the
// test if what it finds is not whole or older than before.
func readAllTheTime(t *testing.T, dir string) (stop func() int) {
	var done atomic.Bool
	reads := make(chan int, 1)
	go func() {
		st, count, last := &filestore.Store{Dir: dir}, 0, 0
		for ; !done.Load(); count++ {
			s, err := st.Load(context.Background(), "k")
			if err != nil {
				t.Errorf("a Load meanwhile: %v", err)
				break
			}
			n := int(s.CreatedAt.Sub(epoch) / time.Second)
			if *s != *session(n) || n < last {
				t.Errorf("a Load meanwhile: session %d after %d, whole: %v", n, last, *s == *session(n))
				break
			}
			last = n
		}
		reads <- count
	}()
	return func() int { done.Store(true); return <-reads }
}

// pause lets a worker run for a while.
func pause(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

func TestStoreKeepsTheContractBetweenProcesses(t *testing.T) {
	walletauthtest.TestProcesses(t,
		func(t *testing.T) string { return t.TempDir() },
		func(_ *testing.T, dir string) walletauth.TokenStore { return &filestore.Store{Dir: dir} })
}
