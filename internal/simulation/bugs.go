package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// within is how many seeds the search may take to find a deliberate bug.
const within = 2000

// FindsBugs shows that the search can find things: stores,
// refreshers and clients that are wrong on purpose.
func (s Seams) FindsBugs(t *testing.T) {
	for _, bug := range []struct {
		name   string
		change func(*world)
	}{
		{"a store that gives its lease to whoever asks", func(w *world) { w.bugs.noExclusion = true }},
		{"a store that saves without comparing", func(w *world) { w.bugs.noCompare = true }},
		{"a store that keeps the last save of a login, not the latest state", func(w *world) { w.bugs.lastWins = true }},
		{"a store that forgets a login that met another", func(w *world) { w.bugs.dropsLosers = true }},
		{"a store that drops a save if the lease has lapsed", func(w *world) { w.bugs.onlyMine = true }},
		{"a store that loses saves", func(w *world) { w.bugs.losesSaves = true }},
		{"a store with nothing to compare with after a logout", func(w *world) {
			w.bugs.noTombstone = true
			w.cond.pause, w.cond.processes = 0.02, 3 // it takes a holder that stands still while the user logs out elsewhere
		}},
		{"a store whose Update starts from a local copy", func(w *world) { w.bugs.staleRead = true }},
		{"a store that mixes keys up", func(w *world) { w.bugs.mixesKeys = true }},
		{"a store that is empty while its server is down", func(w *world) { w.bugs.emptyWhenDown = true }},
		{"a refresher that sends twice to be sure", func(w *world) { w.twist.refresher = sendsTwice }},
		{"a refresher that spends the token it was given at first", func(w *world) { w.twist.refresher = new(firstToken).refresh }},
		{"a refresher that takes any failure for the end", func(w *world) { w.twist.refresher = givesUp }},
		{"a refresher that is as impatient as its callers", func(w *world) { w.twist.refresher = hasty }},
		{"a client that repeats a request until it works", func(w *world) { w.twist.client = stubborn }},
		{"a client that keeps one token for all keys", func(w *world) { w.twist.client = new(oneToken).client }},
	} {
		t.Run(bug.name, func(t *testing.T) {
			_, run, failed := s.search(t, 1, within, 1, bug.change)
			if len(failed) == 0 {
				t.Fatalf("not found in %d seeds", run)
			}
			t.Logf("found after %d seeds: %s", run, failed[0].violations[0])
		})
	}
}

func sendsTwice(_ *incarnation, ctx context.Context, r walletauth.Refresher, s *walletauth.Session) (*walletauth.Session, error) {
	next, err := r.Refresh(ctx, s)
	if again, err := r.Refresh(ctx, s); err == nil {
		return again, nil
	}
	return next, err
}

// firstToken keeps what each process was given first, as a program does that
// reads its refresh token once, when it starts.
type firstToken struct {
	mu    sync.Mutex
	first map[string]*walletauth.Session
}

func (f *firstToken) refresh(inc *incarnation, ctx context.Context, r walletauth.Refresher, s *walletauth.Session) (*walletauth.Session, error) {
	key := inc.name + actorOf(ctx).key.name
	f.mu.Lock()
	if f.first == nil {
		f.first = make(map[string]*walletauth.Session)
	}
	if f.first[key] == nil || f.first[key].CreatedAt.Before(s.CreatedAt) {
		f.first[key] = s
	}
	s = f.first[key]
	f.mu.Unlock()
	return r.Refresh(ctx, s)
}

func givesUp(_ *incarnation, ctx context.Context, r walletauth.Refresher, s *walletauth.Session) (*walletauth.Session, error) {
	next, err := r.Refresh(ctx, s)
	if err != nil {
		return nil, &walletauth.RefreshError{StatusCode: 401, Err: walletauth.ErrSessionExpired}
	}
	return next, nil
}

// hasty is what a refresh on the context of a request amounts to: it ends
// when nobody waits for it any more.
func hasty(_ *incarnation, ctx context.Context, r walletauth.Refresher, s *walletauth.Session) (*walletauth.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	return r.Refresh(ctx, s)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func stubborn(inc *incarnation) http.RoundTripper {
	return roundTrip(func(req *http.Request) (resp *http.Response, err error) {
		for range 3 {
			if resp, err = inc.transport.RoundTrip(req); err != nil || resp.StatusCode == 200 {
				break
			}
		}
		return resp, err
	})
}

// oneToken keeps the session of the last request that asked, as a program does
// that was written for one user.
type oneToken struct {
	mu   sync.Mutex
	last map[*incarnation]*walletauth.Session
}

func (o *oneToken) client(inc *incarnation) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		o.mu.Lock()
		s := o.last[inc]
		o.mu.Unlock()
		if s == nil {
			var err error
			if s, err = inc.transport.Session(req.Context()); err != nil {
				return nil, err
			}
			o.mu.Lock()
			if o.last == nil {
				o.last = make(map[*incarnation]*walletauth.Session)
			}
			o.last[inc] = s
			o.mu.Unlock()
		}
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", "Bearer "+s.AccessToken)
		return inc.transport.RoundTrip(req)
	})
}

var simPatches = flag.Bool("sim.patches", false, "simulate the package with one line of it made wrong, for a list of lines")

// FindsWrongLines does the same with bugs in the package itself:
// it builds the tests with a line replaced, by the overlay that the go command
// offers, and expects the simulation to fail. It takes some minutes.
func (Seams) FindsWrongLines(t *testing.T) {
	if !*simPatches {
		t.Skip("run with -sim.patches")
	}
	for _, bug := range []struct{ name, file, right, wrong string }{
		{"the session is not looked at again under exclusion", "flight.go", "newest := current\n", "newest := f.stale\n"},
		{"exclusion that was lost stops nobody", "flight.go", "if excl.Err() != nil {", "if false {"},
		{"a retry does not ask whether exclusion lasts", "flight.go", "sleep(excl, f.clock, delay)", "sleep(context.Background(), f.clock, delay)"},
		{"what could not be stored is forgotten", "flight.go", "f.saveLater(ctx, f.key, f.bought)", "_ = f.bought"},
		{"what is over is not remembered", "flight.go", "f.ended.add(s, err)", "_ = s"},
		{"a refresh ends with its caller", "singleflight.go", "f.fly(context.WithoutCancel(ctx))", "f.fly(ctx)"},
		{"a caller waits though its context has ended", "singleflight.go", "\tcase <-ctx.Done():\n\t\treturn nil, nil, ctx.Err()", "\tcase <-make(chan struct{}):\n\t\treturn nil, nil, ctx.Err()"},
		{"a refused token of another user's session is replaced", "exchange.go", "if next == nil || next.UserID != x.session.UserID {", "if next == nil {"},
		{"a reply may be another user's", "refresher.go", `case old.UserID != "" && next.UserID != old.UserID:`, "case false:"},
		{"a firewall's 403 ends the session", "refresher.go", "\t\tif ours {", "\t\tif ours || true {"},
		{"the server's time is not learned", "refresher.go", "\tr.clock.learn(resp.Header, sent)\n", "\t_ = sent\n"},
		{"what waits to be stored replaces anything", "unsaved.go", "if u.outdated(current) {", "if true {"},
		{"a login that waits replaces its own refresh", "capture.go", "current.CreatedAt.Before(login.CreatedAt)", "!current.CreatedAt.After(login.CreatedAt)"},
	} {
		t.Run(bug.name, func(t *testing.T) {
			output, err := testWith(t, bug.file, bug.right, bug.wrong)
			var failed *exec.ExitError
			switch found := regexp.MustCompile(`(\d+) seeds from`).FindStringSubmatch(output); {
			case err == nil:
				t.Errorf("not found in %d seeds", within)
			case !errors.As(err, &failed) || found == nil:
				t.Errorf("the tests did not run: %v\n%s", err, output)
			default:
				first := regexp.MustCompile(`seed \d+: at .*`).FindString(output)
				t.Logf("found after %s seeds: %s", found[1], first)
			}
		})
	}
}

// testWith runs the simulation on a package in which right, which must occur
// once in file, is replaced by wrong.
func testWith(t *testing.T, file, right, wrong string) (output string, err error) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), right); n != 1 {
		t.Fatalf("%s has %d times %q, want once", file, n, right)
	}
	dir := t.TempDir()
	replaced, overlay := filepath.Join(dir, file), filepath.Join(dir, "overlay.json")
	original, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: replaced}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{replaced: []byte(strings.Replace(string(text), right, wrong, 1)), overlay: replace} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-overlay", overlay, "-run", "^TestSimulation$", ".", "-sim.seeds=2000", "-sim.enough=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
