//go:build linux

package remotetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// patience is how long to wait for what must happen, however busy the machine
// is, before a test says that it does not.
const patience = time.Minute

// shortOr returns the first in short runs, the second otherwise.
func shortOr[T any](short, full T) T {
	if testing.Short() {
		return short
	}
	return full
}

// InEightProcesses runs one test of the calling package in 8 processes at
// once, in short runs in 2, with a variable of the environment that names the
// server for all.
//
// TestStore's 1,000 keys at once are left out. They are to show that Updates do
// not wait for each other in a process, and TestStore itself shows it in one. What
// 8,000 would show beyond is a queue at the server, which TestBusyServer of package
// remote shows in no time.
func InEightProcesses(t *testing.T, test, env string) {
	var all sync.WaitGroup
	for range shortOr(2, 8) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.skip=/1000_keys")
		cmd.Env = append(os.Environ(), env, "GORACE=atexit_sleep_ms=0")
		all.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	all.Wait()
}

func save(t *testing.T, store walletauth.TokenStore, key, id string) {
	t.Helper()
	if err := walletauth.Save(t.Context(), store, key, Session(id)); err != nil {
		t.Fatal(err)
	}
}

// LoginIsSeenAtOnce checks with two stores over the same sessions that the one
// does not remember that there was none.
func LoginIsSeenAtOnce(t *testing.T, here, there walletauth.TokenStore) {
	for range 50 {
		if _, err := here.Load(t.Context(), "user"); !errors.Is(err, walletauth.ErrNoSession) {
			t.Fatalf("Load before the login: %v", err)
		}
		save(t, there, "user", "login")
		if _, err := here.Load(t.Context(), "user"); err != nil {
			t.Fatalf("Load after a login in another process: %v", err)
		}
		if err := walletauth.Delete(t.Context(), here, "user"); err != nil {
			t.Fatal(err)
		}
	}
}

// Outage checks that while the server is away requests go on with the copies,
// and that an Update fails with an error that names the store and no token. The
// store uses copies for 100 ms.
func Outage(t *testing.T, store walletauth.TokenStore, prefix string, stop, start func()) {
	save(t, store, "user", "secret")
	stop()
	t.Logf("the slowest Load during the outage took %v", loadForASecond(t, store))
	brief := func() context.Context { // which ends within the 5 s for which an outage is sat out
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	if _, err := store.Load(brief(), "nobody"); err == nil || errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("Load of what there is no copy of: %v", err)
	}
	err := walletauth.Save(brief(), store, "user", Session("secret"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), prefix) || strings.Contains(err.Error(), "secret") {
		t.Errorf("Update during an outage: %v", err)
	}
	start()
	save(t, store, "user", "after")
	AwaitID(t, store, "user", "after")
}

func loadForASecond(t *testing.T, store walletauth.TokenStore) (slowest time.Duration) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Second); time.Now().Before(end); <-tick.C {
		began := time.Now()
		if _, err := store.Load(t.Context(), "user"); err != nil {
			t.Fatalf("Load during an outage: %v", err)
		}
		slowest = max(slowest, time.Since(began))
	}
	return slowest
}

// AwaitID loads until the session of key has this id.
func AwaitID(t *testing.T, store walletauth.TokenStore, key, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		s, err := store.Load(ctx, key)
		if err != nil {
			t.Fatalf("Load: %v, want session %s", err, want)
		}
		if s.ID == want {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("after %v the session is still %s, want %s", patience, s.ID, want)
		}
	}
}

// BackgroundEnds checks that a store that was not used yet starts one invalidator at
// its first use, and that end leaves none behind.
func BackgroundEnds(t *testing.T, store walletauth.TokenStore, end func() error) {
	others := invalidators() // of stores in other tests
	save(t, store, "user", "1")
	if n := invalidators() - others; n != 1 {
		t.Errorf("%d invalidators after first use, want 1", n)
	}
	for range 2 {
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	if n := invalidators() - others; n != 0 {
		t.Errorf("%d invalidators after Close, want 0", n)
	}
	if _, err := store.Load(t.Context(), "user"); err != nil {
		t.Errorf("Load after Close: %v", err)
	}
}

var invalidatorFrame = regexp.MustCompile(`remote\.\(\*invalidator\)\.run\(`)

// invalidators counts the goroutines that keep copies coherent.
func invalidators() int {
	stacks := make([]byte, 1<<20)
	return len(invalidatorFrame.FindAll(stacks[:runtime.Stack(stacks, true)], -1))
}

// ManySessions stores n sessions of the usual size, a tenth of them in short runs,
// and logs what each costs at the server, whose use of memory or disk used returns, and in the process.
func ManySessions(t *testing.T, store walletauth.TokenStore, n int, used func() int) {
	n = shortOr(n/10, n)
	long := func() *walletauth.Session { // with tokens of a usual length that do not compress
		s := Session(rand.Text())
		for range 26 {
			s.AccessToken += rand.Text()
			s.RefreshToken += rand.Text()
		}
		return s
	}
	data, err := walletauth.JSONCodec{}.Encode("", long())
	if err != nil {
		t.Fatal(err)
	}
	save(t, store, "first", "first") // with which the client opens what it keeps open
	before, heap := used(), heapInUse()
	each(n, func(i int) {
		if err := walletauth.Save(t.Context(), store, fmt.Sprintf("user-%d", i), long()); err != nil {
			t.Error(err)
		}
	})
	t.Logf("%d sessions of %d bytes as JSON: at the server %d bytes each, in the process %d bytes each",
		n, len(data), (used()-before)/n, (heapInUse()-heap)/n)
	runtime.KeepAlive(store)
}

func heapInUse() int {
	runtime.GC()
	runtime.GC() // a sync.Pool keeps what it has for one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// each calls fn with the numbers below n, from 16 goroutines.
func each(n int, fn func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				fn(i)
			}
		})
	}
	all.Wait()
}
