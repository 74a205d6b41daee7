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
	if testing.Short() {
		t.Skip("it searches for a minute: make proof runs it, or go test without -short")
	}
	for _, bug := range []struct {
		name   string
		change func(*world)
	}{
		{"a store that gives its lease to whoever asks", func(w *world) { w.bugs.noExclusion = true }},
		{"a store that saves without comparing", func(w *world) { w.bugs.noCompare = true }},
		{"a store that keeps the last save of a login, not the latest state", func(w *world) { w.bugs.lastWins = true }},
		{"a store that forgets a login that met another", func(w *world) {
			w.bugs.dropsLosers = true
			w.cond.pause, w.cond.processes = 0.02, 3 // as below
		}},
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
		{"a refresher that uses the token it was given at first", func(w *world) { w.twist.refresher = new(firstToken).refresh }},
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

// wrongLine is a bug of the package itself: a line of it, which occurs once in its
// file, and what is to stand there. Lines whose worlds do not occur here are the
// tests' alone, as the look at the store before an end: this WalletKit ends the
// session of a token that comes twice, so that nothing is left to be found.
type wrongLine struct{ name, file, right, wrong string }

var wrongLines = []wrongLine{
	{"the session is not looked at again under exclusion", "refresh.go", "c, err := r.send(current)", "c, err := r.send(r.stale)"},
	{"exclusion that was lost stops nobody", "refresh.go", "if ctx.Err() != nil {", "if false {"},
	{"what could not be stored is forgotten", "pending.go", "\t\tp.keep(key, &u)\n", "\t\t_ = u\n"},
	{"what is called over is sent again meanwhile", "refresh.go", "if err := r.states.refusedError(r.key, current); err != nil {", "if err := error(nil); err != nil {"},
	{"an end is answered with the 401", "sessions.go", "\tcase errors.Is(err, ErrSessionExpired):\n\t\treturn nil, false, err\n", "\tcase errors.Is(err, ErrSessionExpired):\n\t\treturn nil, false, nil\n"},
	{"a refresh ends with its caller", "refresh.go", "ctx: timeout.Detach(ctx)}", "ctx: ctx}"},
	{"an attempt gets what is left of the time", "refresh.go", "timed := timeout.New(r.ctx, r.clock, r.timeout)", "timed := timeout.New(r.ctx, r.clock, r.timeout-r.clock.Now().Sub(r.began))"},
	{"requests wait as long as a refresh is tried", "singleflight.go", "case <-leave:\n\t\t\t\tc.giveUp()\n", "case <-leave:\n"},
	{"a cool-down outlives a new login", "internal/policy/cooldown.go", "if c.refreshToken == refreshToken && now.Before(c.until) {", "if now.Before(c.until) {"},
	{"a key that failed is left alone for minutes", "internal/policy/cooldown.go", "250*time.Millisecond, 4*time.Second)", "250*time.Millisecond, 4*time.Minute)"},
	{"a request goes out as another user after a wait", "sessions.go", "if next.session.UserID != c.stale.UserID {", "if false {"},
	{"a refused request is sent again as another user", "sessions.go", "case err == nil && next.session.UserID == rejected.session.UserID:", "case err == nil:"},
	{"a reply may be another user's", "internal/api/session.go", `case s.UserID != "" && next.UserID != s.UserID:`, "case false:"},
	{"a reply is thrown away that looks expired", "refresh.go", "\t\tc.expiry = received.Add(lifetime)\n", "\t\treturn nil, errors.New(\"expired\")\n"},
	{"the clocks alone decide that a token is due", "keystate.go", "if !c.issued.IsZero() && local.Sub(c.issued) < c.trusted {", "if false {"},
	{"401s cause refreshes without end", "internal/policy/rejections.go", "return len(r.refreshes) < rejectionLimit", "return true"},
	{"refreshes that did not help do not count", "refresh.go", "\t\t\t\tst.rejections.Refreshed(s.AccessToken, s.AccessToken == r.stale.AccessToken, r.clock.Now())\n", "\t\t\t\t_ = s\n"},
	{"nothing is remembered for an outage of the store", "sessions.go", "last = st.current.Load()", "_ = st.current.Load()"},
	{"what waits to be stored replaces anything", "pending.go", "; w.replaces(current) {", "; w != nil {"},
	{"a session that is gone serves while the store is down", "sessions.go", "\t\tm.states.forget(key, generation)\n\t\treturn nil, err\n", "\t\treturn nil, err\n"},
	{"what a refresh brought does not serve while the store is down", "refresh.go", "current = r.states.remember(r.key, r.generation, o.credentials)", "current = true"},
	{"the local clock alone ends a session", "refresh.go", "if current.RefreshToken == \"\" {", "if current.RefreshToken == \"\" || r.clock.Now().After(current.RefreshTokenExpiresAt) {"},
	{"events are told under the store's lock", "refresh.go", "\tr.events.add(e)\n", "\t_ = r.onEvent.emit(r.ctx, e)\n"},
}

// FindsWrongLines does the same with wrongLines: it builds the tests with a line
// replaced, by the overlay that the go command offers, and expects the simulation
// to fail. That takes seconds for each, and is for make proof. Without the flag it says whether the lines
// still stand where they are to be replaced.
func (Seams) FindsWrongLines(t *testing.T) {
	for _, bug := range wrongLines {
		t.Run(bug.name, func(t *testing.T) {
			text, err := os.ReadFile(bug.file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), bug.right); n != 1 {
				t.Fatalf("%s has %d times %q, want once", bug.file, n, bug.right)
			}
			if !*simPatches {
				return
			}
			output, err := testWith(t, bug.file, strings.Replace(string(text), bug.right, bug.wrong, 1))
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

// testWith runs the simulation on a package with another text of file.
func testWith(t *testing.T, file, text string) (output string, err error) {
	t.Helper()
	dir := t.TempDir()
	replaced, overlay := filepath.Join(dir, filepath.Base(file)), filepath.Join(dir, "overlay.json")
	original, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {original: replaced}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{replaced: []byte(text), overlay: replace} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-overlay", overlay, "-run", "^TestSimulation$", ".", "-sim.seeds=2000", "-sim.enough=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
