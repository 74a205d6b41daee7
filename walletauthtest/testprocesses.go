package walletauthtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// TestProcesses checks what a TokenStore promises to several processes that
// share it: Updates of one key exclude each other, none is lost, what one
// process stores the others load within 5 seconds, and a process that is killed
// in an Update blocks the key for a minute at most and leaves the old session.
// The last takes as long as the store's lease and is left out of short runs.
//
// setup prepares a place for the sessions and returns its name: a folder, an
// address, a table. open returns a store of the sessions at that place; what it
// opened it closes by t.Cleanup. The other processes are this test binary, run
// again with only the calling test; in them setup is not called, and open is.
// Call TestProcesses first in a test of its own:
//
//	func TestProcesses(t *testing.T) {
//		walletauthtest.TestProcesses(t,
//			func(t *testing.T) string { return t.TempDir() },
//			func(t *testing.T, dir string) walletauth.TokenStore { return &filestore.Store{Dir: dir} })
//	}
func TestProcesses(t *testing.T, setup func(t *testing.T) (place string), open func(t *testing.T, place string) walletauth.TokenStore) {
	if order, ok := os.LookupEnv(workerEnv); ok {
		obey(t, order, open)
		return
	}
	p := &processes{T: t, place: setup(t), scratch: t.TempDir(), open: open}
	t.Run("no Update is lost", p.checkNoneLost)
	t.Run("an Update is seen by others", p.checkSeenByOthers)
	if !testing.Short() {
		t.Run("a killed process blocks nobody for long", p.checkKilled)
	}
}

// processes is the side of the test that starts the others.
type processes struct {
	*testing.T
	place, scratch string
	open           func(*testing.T, string) walletauth.TokenStore
}

const workerEnv = "WALLETAUTHTEST_WORKER"

// noRaceSleep is for the environment of a process that may have been built with
// the race detector, which otherwise sleeps for a second at the end.
const noRaceSleep = "GORACE=atexit_sleep_ms=0"

// workOrder tells another process what to do.
type workOrder struct {
	Do      string // a name in works
	Place   string
	Key     string
	Updates int
	Scratch string // a folder that all processes share
}

var works = map[string]func(*testing.T, walletauth.TokenStore, workOrder){
	"increment": increment,
	"hold":      holdForEver,
}

func obey(t *testing.T, text string, open func(*testing.T, string) walletauth.TokenStore) {
	var order workOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		t.Fatal(err)
	}
	works[order.Do](t, open(t, order.Place), order)
}

// worker is another process that runs the calling test.
func (p *processes) worker(ctx context.Context, order workOrder) (*exec.Cmd, error) {
	order.Place, order.Scratch = p.place, p.scratch
	text, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	var only []string
	for name := range strings.SplitSeq(p.Name(), "/") {
		only = append(only, "^"+regexp.QuoteMeta(name)+"$")
	}
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run="+strings.Join(only, "/"), "-test.timeout=5m")
	cmd.Env = append([]string{noRaceSleep}, append(os.Environ(), workerEnv+"="+string(text))...) // a GORACE of the user's wins
	return cmd, nil
}

func (p *processes) checkNoneLost(t *testing.T) {
	const workers, each = 6, 15
	done := make(chan error, workers)
	for range workers {
		cmd, err := p.worker(t.Context(), workOrder{Do: "increment", Key: "counter", Updates: each})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, out)
			}
			done <- err
		}()
	}
	for range workers {
		if err := <-done; err != nil {
			t.Errorf("a process that updates: %v", err)
		}
	}
	s, err := p.open(t, p.place).Load(t.Context(), "counter")
	if err != nil || number(s) != workers*each {
		t.Errorf("%d processes made %d Updates each, and %d have been stored (%v)\nthe rule is: while fn runs, no other Update of that key runs, in this process or in any other",
			workers, each, number(s), err)
	}
}

// increment counts in the session, and holds a file while it does, so that
// two that run at once find each other out even if the sum comes out right.
func increment(t *testing.T, store walletauth.TokenStore, order workOrder) {
	held := filepath.Join(order.Scratch, "held")
	for range order.Updates {
		err := store.Update(t.Context(), order.Key, func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			f, err := os.OpenFile(held, os.O_CREATE|os.O_EXCL, 0o600)
			if errors.Is(err, fs.ErrExist) {
				t.Error("two processes run an Update of one key at once")
			}
			if err != nil {
				return nil, err
			}
			defer os.Remove(held)
			defer f.Close()
			return generation(order.Key, number(s)+1), nil
		})
		if err != nil {
			t.Fatalf("Update: %v", err)
		}
	}
}

// checkSeenByOthers tries again, with another key, if an Update was seen too late:
// a machine that stood still meanwhile may be to blame, but not each time.
func (p *processes) checkSeenByOthers(t *testing.T) {
	store := p.open(t, p.place)
	var err error
	for attempt := range 3 {
		if err = p.see(t, store, fmt.Sprint("seen ", attempt)); err == nil {
			return
		}
	}
	t.Fatalf("three keys in turn were not seen: %v\nthe rule is: an Update in one process is seen by all others, and a local copy is trusted for at most 5 seconds", err)
}

// see loads key, has another process store it, and returns an error if Load does not
// return that for as long as a copy may be trusted.
func (p *processes) see(t *testing.T, store walletauth.TokenStore, key string) error {
	if _, err := store.Load(t.Context(), key); !errors.Is(err, walletauth.ErrNoSession) {
		t.Fatalf("Load: %v, want ErrNoSession", err)
	}
	cmd, err := p.worker(t.Context(), workOrder{Do: "increment", Key: key, Updates: 1})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("a process that updates: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return awaitFirst(ctx, store, key)
}

// awaitFirst loads key until the first Update of it is seen or ctx ends.
func awaitFirst(ctx context.Context, store walletauth.TokenStore, key string) error {
	retry := time.NewTicker(5 * time.Millisecond)
	defer retry.Stop()
	for {
		s, err := store.Load(ctx, key)
		if err == nil && number(s) == 1 {
			return nil
		}
		select {
		case <-retry.C:
		case <-ctx.Done():
			return fmt.Errorf("5 seconds after another process stored it, Load still returns %v, %v", s, err)
		}
	}
}

// holding is what a process prints from within its Update.
const holding = "walletauthtest: holding"

func (p *processes) checkKilled(t *testing.T) {
	store, before := p.open(t, p.place), generation("killed", 1)
	if err := walletauth.Save(t.Context(), store, "killed", before); err != nil {
		t.Fatal(err)
	}
	p.killHolder(t, workOrder{Do: "hold", Key: "killed"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := store.Update(ctx, "killed", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		if number(s) != 1 {
			t.Errorf("after the crash of an Update the session is %v, want the one from before", s)
		}
		return generation("killed", 2), nil
	})
	if err != nil {
		t.Errorf("Update of a key whose holder was killed: %v\nthe rule is: a crash of the holder blocks others at most one lease", err)
	}
}

// killHolder starts a process and kills it in the middle of its Update.
func (p *processes) killHolder(t *testing.T, order workOrder) {
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	cmd, err := p.worker(ctx, order)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // its end would end the holder
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, found := readUntil(out, holding)
	kill()
	_ = cmd.Wait() // it was killed
	if !found {
		t.Fatalf("the process that was to hold the key ended:\n%s", said)
	}
}

func readUntil(r io.Reader, line string) (said string, found bool) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if lines.Text() == line {
			return said, true
		}
		said += lines.Text() + "\n"
	}
	return said, false
}

// holdForEver ends only if the process that started it does.
func holdForEver(t *testing.T, store walletauth.TokenStore, order workOrder) {
	_ = store.Update(t.Context(), order.Key, func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
		fmt.Println(holding)
		_, _ = io.Copy(io.Discard, os.Stdin)
		return nil, errors.New("the test has ended")
	})
}
