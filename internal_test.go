package walletauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/drain"
	"github.com/walletauth/walletauth/internal/policy"
	"github.com/walletauth/walletauth/internal/serverclock"
)

func TestEitherTokenMakesASessionAnotherState(t *testing.T) {
	s := &Session{AccessToken: "a", RefreshToken: "r"}
	for name, c := range map[string]struct {
		a, b *Session
		want bool
	}{
		"the same":              {s, &Session{ID: "new", AccessToken: "a", RefreshToken: "r"}, true},
		"none and none":         {nil, nil, true},
		"one and none":          {s, nil, false},
		"another access token":  {s, &Session{AccessToken: "b", RefreshToken: "r"}, false},
		"another refresh token": {s, &Session{AccessToken: "a", RefreshToken: "q"}, false},
	} {
		if sameTokens(c.a, c.b) != c.want || sameTokens(c.b, c.a) != c.want {
			t.Errorf("%s: not %t", name, c.want)
		}
	}
}

// TestSharedError: a failure that holds back the refreshes of other users tells
// them its kind, and nothing that the server said to this one.
func TestSharedError(t *testing.T) {
	const said = "told to one user alone"
	network := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
	for what, row := range map[string]struct {
		err  error
		want RefreshError
		is   error
	}{
		"a status":        {&RefreshError{StatusCode: 503, RetryAfter: time.Minute, Err: errors.New(said)}, RefreshError{StatusCode: 503, RetryAfter: time.Minute}, errEndpointDown},
		"a network error": {fmt.Errorf(said+": %w", network), RefreshError{}, network},
		"a timeout":       {&RefreshError{Err: fmt.Errorf(said+": %w", context.DeadlineExceeded)}, RefreshError{}, context.DeadlineExceeded},
		"anything else":   {errors.New(said), RefreshError{}, errEndpointDown},
	} {
		var got *RefreshError
		err := sharedError(row.err)
		if !errors.As(err, &got) || got.StatusCode != row.want.StatusCode || got.RetryAfter != row.want.RetryAfter {
			t.Errorf("%s: %#v", what, err)
		}
		if !errors.Is(err, row.is) || !errors.Is(err, errEndpointDown) || strings.Contains(err.Error(), said) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSameLogin(t *testing.T) {
	s := sessionOf("user", 1)
	renewed, moved, again, other := *sessionOf("user", 2), *sessionOf("user", 3), *sessionOf("user", 4), *sessionOf("other", 1)
	moved.ID = "changed by a refresh"
	again.ID, again.CreatedAt = "a login later", noon.Add(time.Second)
	for name, row := range map[string]struct {
		a, b *Session
		want bool
	}{
		"itself":                           {s, s, true},
		"refreshed":                        {&renewed, s, true},
		"refreshed, with another id":       {&moved, s, true},
		"another login of that user":       {&again, s, false},
		"another user's at the same time":  {&other, s, false},
		"known by its access token alone":  {s, &Session{AccessToken: s.AccessToken}, true},
		"another access token and no more": {s, &Session{AccessToken: "another"}, false},
	} {
		if got := sameLogin(row.a, row.b); got != row.want {
			t.Errorf("%s: %t, want %t", name, got, row.want)
		}
	}
}

func TestWhatAPendingWriteReplaces(t *testing.T) {
	s, next, other := sessionOf("user", 1), sessionOf("user", 2), sessionOf("other", 1)
	older, later := *other, *other
	older.CreatedAt, later.CreatedAt = noon.Add(-time.Second), noon.Add(time.Second)
	for name, row := range map[string]struct {
		w       *pendingWrite
		current *Session
		want    bool
	}{
		"nothing, without a write":                         {nil, s, false},
		"not even that there is none, without a write":     {nil, nil, false},
		"a state that it names":                            {&pendingWrite{states: []*Session{next, s}}, s, true},
		"that there is none, if it names that":             {&pendingWrite{states: []*Session{s, nil}}, nil, true},
		"not that there is none, if it does not":           {&pendingWrite{states: []*Session{s}}, nil, false},
		"not another state of the login":                   {&pendingWrite{states: []*Session{s}}, next, false},
		"every state of its login":                         {&pendingWrite{login: s}, next, true},
		"no other login":                                   {&pendingWrite{login: s}, other, false},
		"not that there is none, by a login":               {&pendingWrite{login: s}, nil, false},
		"every login before its time":                      {&pendingWrite{before: noon}, &older, true},
		"no login at its time":                             {&pendingWrite{before: noon}, other, false},
		"no login after its time":                          {&pendingWrite{before: noon}, &later, false},
		"not that there is none, by a time":                {&pendingWrite{before: noon}, nil, false},
		"nothing, if it says nothing":                      {&pendingWrite{}, s, false},
		"a login before its time, although it has a login": {&pendingWrite{login: s, before: noon}, &older, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := row.w.replaces(row.current); got != row.want {
				t.Errorf("replaces: %t, want %t", got, row.want)
			}
		})
	}
}

func TestOverlay(t *testing.T) {
	s, next, other, down := sessionOf("user", 1), sessionOf("user", 2), sessionOf("other", 1), errors.New("down")
	unreadable := fmt.Errorf("%w: damaged", ErrUnreadable)
	refreshed := &pendingWrite{session: next, states: []*Session{s}}
	login := &pendingWrite{session: next, states: []*Session{nil}, before: noon.Add(time.Hour)}
	logout := &pendingWrite{login: s}
	for name, row := range map[string]struct {
		w       *pendingWrite
		s       *Session
		err     error
		want    *Session
		wantErr error
	}{
		"without a write the session is as it is":      {nil, s, nil, s, nil},
		"without a write the error is as it is":        {nil, nil, down, nil, down},
		"a refresh replaces what it refreshed":         {refreshed, s, nil, next, nil},
		"a refresh leaves another login":               {refreshed, other, nil, other, nil},
		"a refresh does not undo a logout":             {refreshed, nil, ErrNoSession, nil, ErrNoSession},
		"a refresh serves while the store is down":     {refreshed, nil, down, next, nil},
		"a refresh stands back where none can be read": {refreshed, nil, unreadable, nil, unreadable},
		"a login fills the empty place":                {login, nil, ErrNoSession, next, nil},
		"a login replaces one before":                  {login, other, nil, next, nil},
		"a login serves where none can be read":        {login, nil, unreadable, next, nil},
		"a logout takes its login away":                {logout, next, nil, nil, ErrNoSession},
		"a logout leaves another login":                {logout, other, nil, other, nil},
		"a logout counts while the store is down":      {logout, nil, down, nil, ErrNoSession},
		"a logout counts where none can be read":       {logout, nil, unreadable, nil, ErrNoSession},
		"a logout that is stored already stays one":    {logout, nil, ErrNoSession, nil, ErrNoSession},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := row.w.overlay(row.s, row.err)
			if got != row.want || err != row.wantErr {
				t.Errorf("got %v, %v, want %v, %v", got, err, row.want, row.wantErr)
			}
		})
	}
}

func TestNextWriteReplacesWhatTheOneBeforeWould(t *testing.T) {
	s, next, last, other := sessionOf("user", 1), sessionOf("user", 2), sessionOf("user", 3), sessionOf("other", 1)
	first := &pendingWrite{session: next, states: []*Session{s}, login: s, before: noon}
	n := first.next(s, next, last)
	if n.session != last || !n.replaces(s) || !n.replaces(next) || n.login != s || n.before != noon {
		t.Errorf("got %+v", n)
	}
	if n := first.next(other, other, last); n.replaces(s) || !n.replaces(other) || n.login != nil {
		t.Errorf("it was not laid over %v, and still counts: %+v", other, n)
	}
	if n := (*pendingWrite)(nil).next(s, s, next); n.session != next || !n.replaces(s) || n.replaces(nil) {
		t.Errorf("without one before: %+v", n)
	}
	n = &pendingWrite{before: noon.Add(time.Hour), login: other}
	if n.inherit(first); n.before != noon.Add(time.Hour) || n.login != other || !n.replaces(s) {
		t.Errorf("what it inherits is less than it had: %+v", n)
	}
}

// bubbleClock is the time of a synctest bubble.
type bubbleClock struct{}

func (bubbleClock) Now() time.Time                         { return time.Now() }
func (bubbleClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// scriptedStore holds one session and does as the test says. It excludes nobody,
// so that fn may write.
type scriptedStore struct {
	mu sync.Mutex
	script
	updates  int
	replaced []*Session
}

type script struct {
	session *Session
	loadErr error
	before  func() error // runs before fn
	after   func() error // runs after fn, before what it returned is stored
	twice   bool         // fn is called again with what is stored by then
	replace error        // of Replace
}

// set changes the script while the store is in use.
func (st *scriptedStore) set(change func(*script)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	change(&st.script)
}

func (st *scriptedStore) now() script {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.script
}

func (st *scriptedStore) store(s *Session) { st.set(func(sc *script) { sc.session = s }) }

// fails lets storing fail after fn has run, and works ends all failing.
func (st *scriptedStore) fails(err error) {
	st.set(func(sc *script) { sc.after = func() error { return err } })
}

func (st *scriptedStore) works() {
	st.set(func(sc *script) { sc.before, sc.after, sc.loadErr, sc.replace = nil, nil, nil, nil })
}

// unreadable makes the store as one that cannot read what it holds.
func (st *scriptedStore) unreadable() {
	err := fmt.Errorf("%w: damaged", ErrUnreadable)
	st.set(func(sc *script) { sc.loadErr, sc.before = err, func() error { return err } })
}

func (st *scriptedStore) Load(context.Context, string) (*Session, error) {
	switch sc := st.now(); {
	case sc.loadErr != nil:
		return nil, sc.loadErr
	case sc.session == nil:
		return nil, ErrNoSession
	default:
		return sc.session, nil
	}
}

func (st *scriptedStore) Update(ctx context.Context, _ string, fn func(context.Context, *Session) (*Session, error)) error {
	st.mu.Lock()
	st.updates++
	st.mu.Unlock()
	if before := st.now().before; before != nil {
		if err := before(); err != nil {
			return err
		}
	}
	next, err := fn(ctx, st.now().session)
	if after := st.now().after; err == nil && after != nil {
		err = after()
	}
	if sc := st.now(); err == nil && sc.twice {
		next, err = fn(ctx, sc.session)
	}
	if err == nil {
		st.store(next)
	}
	return err
}

// replacingStore is one that stores without reading, too.
type replacingStore struct{ *scriptedStore }

func (st replacingStore) Replace(_ context.Context, _ string, s *Session) error {
	st.set(func(sc *script) {
		st.replaced = append(st.replaced, s)
		if sc.replace == nil {
			sc.session = s
		}
	})
	return st.now().replace
}

// pendingTest is a pendingStore over a scriptedStore, in a bubble.
type pendingTest struct {
	*pendingStore
	t     *testing.T
	store *scriptedStore

	mu     sync.Mutex
	events []EventType
}

func newPendingTest(t *testing.T, s *Session) *pendingTest {
	p := &pendingTest{t: t, store: &scriptedStore{script: script{session: s}}}
	p.pendingStore = &pendingStore{
		store: p.store, states: newKeyStates(bubbleClock{}), clock: bubbleClock{}, timeout: 30 * time.Second, work: drain.New(),
		emit: func(_ context.Context, e Event) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.events = append(p.events, e.Type)
		},
	}
	return p
}

func inPending(t *testing.T, name string, s *Session, test func(t *testing.T, p *pendingTest)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPendingTest(t, s)
			defer p.work.Close() // ends what tries again
			test(t, p)
		})
	})
}

// refresh updates the session to next, as a refresh does.
func (p *pendingTest) refresh(next *Session) (stored *Session, err error) {
	return p.update(p.t.Context(), "key", p.emit, func(context.Context, *Session) (*Session, error) { return next, nil })
}

// login and logout are those that CaptureLogin and Transport.Logout write.
func (p *pendingTest) login(s *Session) error {
	w := &pendingWrite{session: s, states: []*Session{nil}, before: s.CreatedAt}
	defer w.force()()
	return p.write(p.t.Context(), "key", w, credentialsFor(p.t, s))
}

func (p *pendingTest) logout(s *Session) error {
	return p.write(p.t.Context(), "key", &pendingWrite{login: s}, nil)
}

// want demands what is stored, what a Load returns, and whether anything is pending.
func (p *pendingTest) want(stored, loaded *Session, pending bool) {
	p.t.Helper()
	if got := p.store.now().session; got != stored {
		p.t.Errorf("stored: %v, want %v", got, stored)
	}
	if s, err := p.Load(p.t.Context(), "key"); s != loaded || (err == nil) != (loaded != nil) {
		p.t.Errorf("Load: %v, %v, want %v", s, err, loaded)
	}
	if got := p.pendingOf("key") != nil; got != pending {
		p.t.Errorf("pending: %t, want %t", got, pending)
	}
}

func (p *pendingTest) wantEvents(want ...EventType) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if diff := cmp.Diff(want, p.events); diff != "" {
		p.t.Errorf("events (-want +got):\n%s", diff)
	}
}

var errStoreFull = errors.New("the disk is full")

func TestPendingUpdate(t *testing.T) {
	s, next, last, other := sessionOf("user", 1), sessionOf("user", 2), sessionOf("user", 3), sessionOf("other", 1)
	other.CreatedAt = noon.Add(time.Second)
	inPending(t, "that the store takes leaves nothing", s, func(t *testing.T, p *pendingTest) {
		if stored, err := p.refresh(next); stored != next || err != nil {
			t.Errorf("stored %v, %v", stored, err)
		}
		p.want(next, next, false)
		p.wantEvents()
		if p.states.Peek("key") != nil {
			t.Error("a state is kept")
		}
	})
	inPending(t, "that changes nothing leaves nothing, whatever the store says", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		if err := p.Update(t.Context(), "key", func(_ context.Context, s *Session) (*Session, error) { return s, nil }); !errors.Is(err, errStoreFull) {
			t.Errorf("got %v", err)
		}
		p.want(s, s, false)
		p.wantEvents()
	})
	inPending(t, "whose function fails changes nothing", s, func(t *testing.T, p *pendingTest) {
		want := errors.New("no")
		err := p.Update(t.Context(), "key", func(_ context.Context, s *Session) (*Session, error) { return next, want })
		if err != want {
			t.Errorf("got %v", err)
		}
		p.want(s, s, false)
	})
	inPending(t, "that the store refuses before its function changes nothing", s, func(t *testing.T, p *pendingTest) {
		p.store.set(func(sc *script) { sc.before = func() error { return errStoreFull } })
		if _, err := p.refresh(next); !errors.Is(err, errStoreFull) {
			t.Errorf("got %v", err)
		}
		p.want(s, s, false)
	})
	inPending(t, "that cannot be stored is kept, told once, and stored later", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		if stored, err := p.refresh(next); stored != next || !errors.Is(err, errStoreFull) {
			t.Errorf("stored %v, %v", stored, err)
		}
		p.want(s, next, true)
		p.wantEvents(SaveFailed)
		time.Sleep(time.Second)
		synctest.Wait()
		if p.store.updates != 4 { // at 0, 100, 300 and 700 ms
			t.Errorf("%d updates in a second, want 4", p.store.updates)
		}
		p.wantEvents(SaveFailed)
		p.store.works()
		time.Sleep(time.Second)
		synctest.Wait()
		p.want(next, next, false)
		p.wantEvents(SaveFailed, SavedLater)
		updates := p.store.updates
		if time.Sleep(time.Hour); p.store.updates != updates {
			t.Error("it goes on trying")
		}
	})
	inPending(t, "sees what is pending, and is stored with it", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_, _ = p.refresh(next)
		p.store.works()
		err := p.Update(t.Context(), "key", func(_ context.Context, current *Session) (*Session, error) {
			if current != next {
				t.Errorf("it sees %v", current)
			}
			return last, nil
		})
		if err != nil {
			t.Error(err)
		}
		p.want(last, last, false)
		p.wantEvents(SaveFailed, SavedLater)
	})
	inPending(t, "that cannot be stored either replaces what was pending", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_, _ = p.refresh(next)
		_, _ = p.refresh(last)
		p.want(s, last, true)
		p.wantEvents(SaveFailed, SaveFailed)
	})
	inPending(t, "gives way to another login in the store", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_, _ = p.refresh(next)
		p.store.store(other)
		p.store.works()
		p.want(other, other, true)
		time.Sleep(time.Second)
		synctest.Wait()
		p.want(other, other, false)
		p.wantEvents(SaveFailed)
	})
	inPending(t, "gives way to a logout in the store", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_, _ = p.refresh(next)
		p.store.store(nil)
		p.store.works()
		time.Sleep(time.Second)
		synctest.Wait()
		p.want(nil, nil, false)
		p.wantEvents(SaveFailed)
	})
}

func TestUpdateThatTheStoreRunsTwice(t *testing.T) {
	s, next, other := sessionOf("user", 1), sessionOf("user", 2), sessionOf("other", 1)
	for name, row := range map[string]struct{ then, want *Session }{
		"with the same session keeps the result of the first run": {s, next},
		"with what it had made keeps that":                        {next, next},
		"with another login leaves that":                          {other, other},
		"with a logout leaves that":                               {nil, nil},
	} {
		inPending(t, name, s, func(t *testing.T, p *pendingTest) {
			p.store.set(func(sc *script) {
				sc.twice = true
				sc.after = func() error { p.store.store(row.then); return nil }
			})
			runs := 0
			stored, err := p.update(t.Context(), "key", p.emit, func(context.Context, *Session) (*Session, error) {
				runs++
				return next, nil
			})
			if runs != 1 || stored != row.want || err != nil {
				t.Errorf("%d runs, stored %v, %v, want %v", runs, stored, err, row.want)
			}
			p.want(row.want, row.want, false)
		})
	}
}

func TestLogoutBetweenTwoRunsOfAnUpdateStays(t *testing.T) {
	s, login := sessionOf("user", 1), sessionOf("other", 1)
	login.CreatedAt = noon.Add(time.Second)
	inPending(t, "though what is pending would have been stored where nothing is", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		if err := p.login(login); err == nil {
			t.Fatal("the login was stored")
		}
		p.store.works()
		p.store.set(func(sc *script) {
			sc.twice = true
			sc.after = func() error { p.store.store(nil); return nil }
		})
		stored, err := p.update(t.Context(), "key", p.emit, func(_ context.Context, current *Session) (*Session, error) { return current, nil })
		if stored != nil || err != nil || p.store.now().session != nil {
			t.Errorf("stored %v, %v", stored, err)
		}
	})
}

func TestLoginOrLogoutWhileAnUpdateRuns(t *testing.T) {
	s, next, other := sessionOf("user", 1), sessionOf("user", 2), sessionOf("other", 1)
	other.CreatedAt = noon.Add(time.Second)
	elsewhere := sessionOf("third", 1)
	for name, row := range map[string]struct {
		meanwhile func(p *pendingTest)
		want      *Session
	}{
		"a login wins over its result":                        {func(p *pendingTest) { _ = p.login(other) }, other},
		"a logout wins over its result":                       {func(p *pendingTest) { _ = p.logout(s) }, nil},
		"a logout that names the new tokens wins":             {func(p *pendingTest) { _ = p.logout(next) }, nil},
		"a logout of somebody else's login leaves its result": {func(p *pendingTest) { _ = p.logout(elsewhere) }, next},
	} {
		for _, saving := range []string{"works", "fails at first"} {
			inPending(t, name+", saving "+saving, s, func(t *testing.T, p *pendingTest) {
				if saving != "works" {
					p.store.fails(errStoreFull)
				}
				stored, _ := p.update(t.Context(), "key", p.emit, func(context.Context, *Session) (*Session, error) {
					p.store.set(func(sc *script) { sc.before = func() error { return errStoreFull } }) // exclusion is this update's
					row.meanwhile(p)
					return next, nil
				})
				if stored != row.want {
					t.Errorf("update says %v is stored, want %v", stored, row.want)
				}
				if loaded, err := p.Load(t.Context(), "key"); loaded != row.want || row.want == nil && !errors.Is(err, ErrNoSession) {
					t.Errorf("Load: %v, %v", loaded, err)
				}
				p.store.works()
				time.Sleep(time.Minute)
				synctest.Wait()
				p.want(row.want, row.want, false)
			})
		}
	}
}

func TestPendingLoginAndLogout(t *testing.T) {
	s, other := sessionOf("user", 1), sessionOf("other", 1)
	other.CreatedAt = noon.Add(time.Second)
	older := *other
	older.CreatedAt = noon.Add(-time.Hour)
	inPending(t, "a login is stored over whatever is there, though by its date it came before", other, func(t *testing.T, p *pendingTest) {
		if err := p.login(s); err != nil {
			t.Error(err)
		}
		p.want(s, s, false)
		if c := p.states.currentOf("key"); c == nil || c.session != s {
			t.Errorf("requests are sent with %v", c)
		}
	})
	inPending(t, "a login counts before it is stored, and is stored over an older one", &older, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		var failed *StoreError
		if err := p.login(s); !errors.As(err, &failed) || failed.Op != "update" || !errors.Is(err, errStoreFull) {
			t.Errorf("got %v", err)
		}
		p.want(&older, s, true)
		p.store.works()
		time.Sleep(time.Second)
		synctest.Wait()
		p.want(s, s, false)
		p.wantEvents(SaveFailed, SavedLater)
	})
	inPending(t, "a login that waits leaves a later one in the store", nil, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_ = p.login(s)
		p.store.store(other)
		p.store.works()
		time.Sleep(time.Second)
		synctest.Wait()
		p.want(other, other, false)
		p.wantEvents(SaveFailed)
	})
	inPending(t, "a logout counts before it is stored", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		p.states.remember("key", 0, credentialsFor(t, s))
		if err := p.logout(s); !errors.Is(err, errStoreFull) {
			t.Errorf("got %v", err)
		}
		p.want(s, nil, true)
		if p.states.currentOf("key") != nil {
			t.Error("its session is remembered")
		}
		p.store.works()
		time.Sleep(time.Second)
		synctest.Wait()
		p.want(nil, nil, false)
	})
	inPending(t, "a logout takes back a login that was not stored yet", &older, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_ = p.login(s)
		_ = p.logout(s)
		p.want(&older, nil, true)
		p.store.works()
		time.Sleep(time.Second)
		synctest.Wait()
		p.want(nil, nil, false)
	})
	inPending(t, "a logout of another login leaves the one that is pending", nil, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_ = p.login(s)
		_ = p.logout(other)
		p.want(nil, s, true)
	})
	inPending(t, "a login after a logout that was not stored yet stays", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_ = p.logout(s)
		_ = p.login(other)
		p.want(s, other, true)
		p.store.works()
		time.Sleep(time.Second)
		synctest.Wait()
		p.want(other, other, false)
	})
	inPending(t, "a Load that began before is not remembered", s, func(t *testing.T, p *pendingTest) {
		loading := p.states.generationOf(p.states.Lookup("key"))
		_ = p.logout(s)
		if p.states.remember("key", loading, credentialsFor(t, s)) {
			t.Error("it is")
		}
	})
}

func TestUnreadableSession(t *testing.T) {
	s, next := sessionOf("user", 1), sessionOf("user", 2)
	inReplacing := func(t *testing.T, name string, test func(t *testing.T, p *pendingTest)) {
		inPending(t, name, nil, func(t *testing.T, p *pendingTest) {
			p.pendingStore.store = replacingStore{p.store}
			p.store.unreadable()
			test(t, p)
		})
	}
	inReplacing(t, "is replaced by a login", func(t *testing.T, p *pendingTest) {
		if err := p.login(s); err != nil || !slices.Equal(p.store.replaced, []*Session{s}) {
			t.Errorf("error %v, replaced %v", err, p.store.replaced)
		}
		p.store.works()
		p.want(s, s, false)
		p.wantEvents()
	})
	inReplacing(t, "is deleted by a logout", func(t *testing.T, p *pendingTest) {
		if err := p.logout(s); err != nil || !slices.Equal(p.store.replaced, []*Session{nil}) {
			t.Errorf("error %v, replaced %v", err, p.store.replaced)
		}
		p.store.works()
		p.want(nil, nil, false)
	})
	inReplacing(t, "is not replaced by a refresh", func(t *testing.T, p *pendingTest) {
		p.store.store(s)
		p.store.works()
		p.store.fails(errStoreFull)
		_, _ = p.refresh(next)
		p.store.unreadable()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(p.store.replaced) != 0 {
			t.Errorf("replaced by %v", p.store.replaced)
		}
	})
	inReplacing(t, "is replaced later if that fails", func(t *testing.T, p *pendingTest) {
		p.store.set(func(sc *script) { sc.replace = errStoreFull })
		if err := p.login(s); !errors.Is(err, errStoreFull) {
			t.Errorf("got %v", err)
		}
		p.wantEvents(SaveFailed)
		p.store.set(func(sc *script) { sc.replace = nil })
		time.Sleep(time.Second)
		synctest.Wait()
		p.store.works()
		p.want(s, s, false)
		p.wantEvents(SaveFailed, SavedLater)
	})
	inPending(t, "stays in a store that cannot replace, and the error says so", nil, func(t *testing.T, p *pendingTest) {
		p.store.unreadable()
		if err := p.login(s); !errors.Is(err, ErrUnreadable) {
			t.Errorf("got %v", err)
		}
		p.want(nil, s, true)
	})
}

func TestStoreThatBreaks(t *testing.T) {
	s, next := sessionOf("user", 1), sessionOf("user", 2)
	inPending(t, "a panic after the function keeps its result", s, func(t *testing.T, p *pendingTest) {
		p.store.set(func(sc *script) { sc.after = func() error { panic("boom with " + next.AccessToken) } })
		_, err := p.refresh(next)
		if err == nil || !strings.Contains(err.Error(), "TokenStore.Update panicked: boom") || strings.Contains(err.Error(), next.AccessToken) {
			t.Errorf("got %v", err)
		}
		p.want(s, next, true)
	})
	inPending(t, "an error that holds tokens comes without", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(fmt.Errorf("cannot write %s over %s: %w", next.RefreshToken, s.AccessToken, errStoreFull))
		_, err := p.refresh(next)
		if err.Error() != "cannot write [redacted] over [redacted]: the disk is full" || !errors.Is(err, errStoreFull) {
			t.Errorf("got %v", err)
		}
	})
	inPending(t, "a Load that returns nothing at all found none", nil, func(t *testing.T, p *pendingTest) {
		p.pendingStore.store = nothingStore{p.store}
		if s, err := p.Load(t.Context(), "key"); s != nil || !errors.Is(err, ErrNoSession) {
			t.Errorf("got %v, %v", s, err)
		}
	})
	inPending(t, "a Load that panics is an error", nil, func(t *testing.T, p *pendingTest) {
		p.pendingStore.store = panickingStore{p.store}
		if s, err := p.Load(t.Context(), "key"); s != nil || err == nil || !strings.Contains(err.Error(), "TokenStore.Load panicked: boom") {
			t.Errorf("got %v, %v", s, err)
		}
	})
}

type nothingStore struct{ *scriptedStore }

func (nothingStore) Load(context.Context, string) (*Session, error) { return nil, nil }

type panickingStore struct{ *scriptedStore }

func (panickingStore) Load(context.Context, string) (*Session, error) { panic("boom") }

func TestFlush(t *testing.T) {
	s, next := sessionOf("user", 1), sessionOf("user", 2)
	inPending(t, "of nothing asks nobody", s, func(t *testing.T, p *pendingTest) {
		if err := p.flush(t.Context(), "key"); err != nil || p.store.updates != 0 {
			t.Errorf("%d updates, %v", p.store.updates, err)
		}
	})
	inPending(t, "in the background ends with Shutdown, which takes over", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_, _ = p.refresh(next)
		p.work.Close()
		if !p.work.Wait(t.Context()) {
			t.Error("it is still waiting")
		}
		if left, err := p.flushOnce(t.Context()); left != 1 || !errors.Is(err, errStoreFull) {
			t.Errorf("%d left, %v", left, err)
		}
		p.store.works()
		if left, err := p.flushOnce(t.Context()); left != 0 || err != nil {
			t.Errorf("%d left, %v", left, err)
		}
		p.want(next, next, false)
	})
	inPending(t, "by Shutdown goes on for the timeout and then says why not", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_, _ = p.refresh(next)
		p.work.Close()
		began := time.Now()
		err := p.flushAll(t.Context())
		if took := time.Since(began); took != p.timeout || !errors.Is(err, errStoreFull) ||
			err.Error() != "walletauth: sessions that could not be stored: 1, the last because: session store: update: the disk is full" {
			t.Errorf("after %v: %v", took, err)
		}
	})
	inPending(t, "of a store that hangs is bounded", s, func(t *testing.T, p *pendingTest) {
		p.store.fails(errStoreFull)
		_, _ = p.refresh(next)
		p.work.Close()
		p.pendingStore.store = hangingStore{p.store}
		began := time.Now()
		if err := p.flush(t.Context(), "key"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != p.timeout {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

type hangingStore struct{ *scriptedStore }

func (hangingStore) Update(ctx context.Context, _ string, _ func(context.Context, *Session) (*Session, error)) error {
	<-ctx.Done()
	return ctx.Err()
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// testClock is a Clock that only the test moves.
type testClock struct{ now time.Time }

func (c *testClock) Now() time.Time                       { return c.now }
func (c *testClock) After(time.Duration) <-chan time.Time { return nil }

func newStates() (*keyStates, *testClock) {
	c := &testClock{noon}
	return newKeyStates(c), c
}

// sessionOf is the nth state of a login of user.
func sessionOf(user string, n int) *Session {
	return &Session{
		ID: "login of " + user, CreatedAt: noon, ProjectID: "project", UserID: user,
		AccessToken: fmt.Sprint("access token ", n, " of ", user), AccessTokenExpiresAt: noon.Add(time.Duration(n) * time.Minute),
		RefreshToken: fmt.Sprint("refresh token ", n, " of ", user), RefreshTokenExpiresAt: noon.AddDate(0, 1, 0),
	}
}

func credentialsFor(t *testing.T, s *Session) *credentials {
	t.Helper()
	c, err := newCredentials(s, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// currentOf is what requests of key are sent with, nil if that is unknown.
func (m *keyStates) currentOf(key string) *credentials {
	if st := m.Lookup(key); st != nil {
		return st.current.Load()
	}
	return nil
}

func TestAKeyThatWasNeverUsedHasNoState(t *testing.T) {
	m, _ := newStates()
	m.peek("key", func(*keyState) { t.Error("peek found one") })
	if err, rejected := m.Lookup("key").expiredError(sessionOf("user", 1)); err != nil || rejected {
		t.Errorf("its session is over: %v, %t", err, rejected)
	}
	if err := m.refusedError("key", sessionOf("user", 1)); err != nil {
		t.Errorf("its session is refused: %v", err)
	}
	m.All(func(string, *keyState) { t.Error("a state was made") })
}

func TestRememberedSession(t *testing.T) {
	first, next, other := credentialsFor(t, sessionOf("user", 1)), credentialsFor(t, sessionOf("user", 2)), credentialsFor(t, sessionOf("other", 1))
	raise := func(m *keyStates) { m.with("key", func(st *keyState) { m.raise(st) }) }
	for name, row := range map[string]struct {
		before func(m *keyStates) (generation uint64)
		c      *credentials
		taken  bool
		want   *credentials
	}{
		"is what requests are sent with": {
			func(m *keyStates) uint64 { return m.generationOf(m.Lookup("key")) }, first, true, first,
		},
		"gives way to its successor": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			return m.generationOf(m.Lookup("key"))
		}, next, true, next},
		"is not one that was loaded before its successor came": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			loading := m.generationOf(m.Lookup("key"))
			m.remember("key", loading, next)
			return loading
		}, first, false, next},
		"is not one that was loaded before a login": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			loading := m.generationOf(m.Lookup("key"))
			m.with("key", func(st *keyState) { st.current.Store(other); m.raise(st) })
			return loading
		}, first, false, other},
		"is not one that was loaded before a logout": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			loading := m.generationOf(m.Lookup("key"))
			m.forget("key", loading)
			return loading
		}, first, false, nil},
		"is not one that was loaded before a logout of a key without a state": {func(m *keyStates) uint64 {
			loading := m.generationOf(m.Lookup("key"))
			m.forget("key", loading)
			return loading
		}, first, false, nil},
		"is one that was loaded after a logout": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			m.forget("key", m.generationOf(m.Lookup("key")))
			return m.generationOf(m.Lookup("key"))
		}, first, true, first},
		"is not lost to a logout that was seen before the login": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			loading := m.generationOf(m.Lookup("key"))
			m.remember("key", loading, next)
			m.forget("key", loading)
			return 0
		}, next, true, next},
		"is taken in any generation if it is the very same": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			raise(m)
			return 0
		}, first, true, first},
		"is not concerned by a change of another key": {func(m *keyStates) uint64 {
			m.remember("key", 0, first)
			loading := m.generationOf(m.Lookup("key"))
			m.remember("another", 0, first)
			m.remember("another", m.generationOf(m.Lookup("another")), other)
			return loading
		}, next, true, next},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := newStates()
			if taken := m.remember("key", row.before(m), row.c); taken != row.taken {
				t.Errorf("taken: %t, want %t", taken, row.taken)
			}
			if got := m.currentOf("key"); got != row.want {
				t.Errorf("requests are sent with %+v, want %+v", got, row.want)
			}
		})
	}
}

func TestCredentialsAreMadeOnceForASession(t *testing.T) {
	m, _ := newStates()
	first, next := sessionOf("user", 1), sessionOf("user", 2)
	current, refreshed := credentialsFor(t, first), credentialsFor(t, next)
	m.remember("key", 0, current)
	m.with("key", func(st *keyState) { st.refreshed.Store(refreshed) })
	for _, row := range []struct {
		s    *Session
		want *credentials
	}{{first, current}, {next, refreshed}} {
		copied := *row.s
		if got, err := m.credentialsOf("key", &copied, ""); got != row.want || err != nil {
			t.Errorf("got %+v, %v, want those that are remembered", got, err)
		}
	}
	moved := *first
	moved.AccessTokenExpiresAt = moved.AccessTokenExpiresAt.Add(time.Hour)
	if got, err := m.credentialsOf("key", &moved, ""); got == current || err != nil || got.session != &moved {
		t.Errorf("a later expiry: %+v, %v", got, err)
	}
	if got, err := m.credentialsOf("another", first, "project of the Transport"); err != nil || got == current || got.project[0] != "project of the Transport" {
		t.Errorf("another key: %+v, %v", got, err)
	}
	if _, err := m.credentialsOf("key", &Session{AccessToken: "a\nb", ProjectID: "p"}, ""); err == nil {
		t.Error("a token that cannot be sent has credentials")
	}
}

func TestHowLongAnAccessTokenIsTakenToLive(t *testing.T) {
	const lifetime = 5 * time.Minute
	for name, row := range map[string]struct {
		c     credentials
		ahead time.Duration // the server's clock, as it was learned
		local time.Duration // after noon
		want  time.Duration
	}{
		"as the server's clock says":                          {credentials{}, time.Minute, 0, 4 * time.Minute},
		"also if that says too much":                          {credentials{}, -time.Minute, 0, 6 * time.Minute},
		"new from a refresh, as the local one says if longer": {credentials{issued: noon, trusted: lifetime / 2}, 295 * time.Second, time.Minute, 4 * time.Minute},
		"or as the server's says if that is longer":           {credentials{issued: noon, trusted: lifetime / 2}, -time.Minute, time.Minute, 5 * time.Minute},
		"up to the last moment of that time":                  {credentials{issued: noon, trusted: lifetime / 2}, 295 * time.Second, lifetime/2 - 1, lifetime/2 + 1},
		"later as the server's says":                          {credentials{issued: noon, trusted: lifetime / 2}, 295 * time.Second, lifetime / 2, -145 * time.Second},
		"by its age, if its own expiry is of no use":          {credentials{expiry: noon.Add(time.Hour)}, 295 * time.Second, time.Minute, 59 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			server := &serverclock.Clock{Local: &testClock{noon}}
			date := row.ahead
			if date < 0 {
				date -= time.Second // Date leaves a second open, and the clock moves no further than it must
			}
			server.ObserveDate(http.Header{"Date": {noon.Add(date).Format(http.TimeFormat)}}, noon)
			row.c.session = &Session{AccessTokenExpiresAt: noon.Add(lifetime)}
			if got := row.c.left(noon.Add(row.local), server); got != row.want {
				t.Errorf("got %v, want %v", got, row.want)
			}
		})
	}
}

func TestEndOfASession(t *testing.T) {
	s, cause := sessionOf("user", 1), fmt.Errorf("%w, says the server", ErrSessionExpired)
	renewed := *s // by whoever: another access token, the same refresh token
	renewed.AccessToken = "another access token"
	want := func(t *testing.T, m *keyStates, s *Session, over, rejected, refused bool) {
		t.Helper()
		err, isRejected := m.Lookup("key").expiredError(s)
		if (err == cause) != over || (err != nil) != over || isRejected != rejected || (m.refusedError("key", s) == cause) != refused {
			t.Errorf("over %v, rejected %t, refused %v; want %t, %t, %t", err, isRejected, m.refusedError("key", s), over, rejected, refused)
		}
	}
	t.Run("is not certain at first, but its token is not sent again", func(t *testing.T) {
		m, _ := newStates()
		m.setRefused("key", s, cause)
		want(t, m, s, false, false, true)
		if err := m.rejectExpired("key", s); err != nil {
			t.Errorf("it is over: %v", err)
		}
	})
	t.Run("is news once", func(t *testing.T) {
		m, _ := newStates()
		m.setRefused("key", s, cause)
		if !m.setExpired("key", s, false, cause) || m.setExpired("key", s, false, cause) {
			t.Error("it is not news the first time, or is the second")
		}
		want(t, m, s, true, false, true)
	})
	t.Run("is told whether the access token still serves", func(t *testing.T) {
		m, _ := newStates()
		m.setExpired("key", s, true, cause)
		want(t, m, s, true, true, true)
		want(t, m, &renewed, true, false, true)
	})
	t.Run("is learned for the access token later", func(t *testing.T) {
		m, _ := newStates()
		m.setExpired("key", s, false, cause)
		if err := m.rejectExpired("key", s); err != cause {
			t.Errorf("got %v", err)
		}
		want(t, m, s, true, true, true)
	})
	t.Run("concerns no other refresh token and no other key", func(t *testing.T) {
		m, _ := newStates()
		m.setExpired("key", s, true, cause)
		want(t, m, sessionOf("user", 2), false, false, false)
		if err := m.rejectExpired("key", sessionOf("user", 2)); err != nil {
			t.Errorf("another login: %v", err)
		}
		if err := m.rejectExpired("another", s); err != nil {
			t.Errorf("another key: %v", err)
		}
		want(t, m, s, true, true, true)
	})
	t.Run("is forgotten with the second login after it", func(t *testing.T) {
		m, _ := newStates()
		m.setExpired("key", s, true, cause)
		if !m.setExpired("key", sessionOf("user", 2), true, cause) {
			t.Error("the end of the next is no news")
		}
		want(t, m, s, true, true, true)
		m.setExpired("key", sessionOf("user", 3), true, cause)
		want(t, m, sessionOf("user", 2), true, true, true)
		want(t, m, s, false, false, false)
	})
}

func TestSweepForgetsWhatHasNoMoreEffect(t *testing.T) {
	s := sessionOf("user", 1)
	for name, row := range map[string]struct {
		set  func(st *keyState)
		kept time.Duration // for how long; negative: for good
	}{
		"a session that is not used":        {func(*keyState) {}, 0},
		"a refresh that runs":               {func(st *keyState) { st.calls = map[string]*call{"token": {}} }, -1},
		"a write that is pending":           {func(st *keyState) { st.pending.Store(&pendingWrite{}) }, -1},
		"an end":                            {func(st *keyState) { st.end.Store(st.end.Load().Refused("token", "token", io.EOF)) }, -1},
		"a store that gave no exclusion":    {func(st *keyState) { st.lockRetryAt = noon.Add(time.Second) }, time.Second},
		"a refresh that a 401 caused":       {func(st *keyState) { st.rejections.Refreshed("token", false, noon) }, 5*time.Minute - 1},
		"a cooldown and a minute behind it": {func(st *keyState) { st.cooldown.Fail("token", io.EOF, false, time.Hour, noon, 7) }, time.Hour + policy.CooldownMemory},
	} {
		t.Run(name, func(t *testing.T) {
			st := &keyState{}
			row.set(st)
			st.current.Store(credentialsFor(t, s))
			st.refreshed.Store(credentialsFor(t, s))
			for _, after := range []time.Duration{row.kept, row.kept + 1, time.Hour * 1000} {
				dropped := sweepStates(noon.Add(after))(st, false)
				if want := row.kept < 0 || row.kept > 0 && after <= row.kept; dropped == want {
					t.Errorf("after %v dropped: %t, want %t", after, dropped, !want)
				}
			}
			if st.current.Load() != nil || st.refreshed.Load() != nil {
				t.Error("its session is remembered all the same")
			}
		})
	}
}

func TestARecentSessionIsRemembered(t *testing.T) {
	m, c := newStates()
	m.remember("key", 0, credentialsFor(t, sessionOf("user", 1)))
	for range 3 {
		c.now = c.now.Add(time.Hour)
		m.SweepIfDue(c.now)
	}
	if m.currentOf("key") == nil {
		t.Error("a sweep forgot it")
	}
}

func TestAKeyThatFailedOnceIsForgotten(t *testing.T) {
	m, c := newStates()
	for i := range 10_000 {
		m.with(fmt.Sprint(i), func(st *keyState) { st.cooldown.Fail("token", io.EOF, true, 0, c.now, 7) })
		c.now = c.now.Add(time.Second)
		m.SweepIfDue(c.now)
	}
	left := 0
	m.All(func(string, *keyState) { left++ })
	if left > 200 {
		t.Errorf("%d of 10,000 keys are remembered", left)
	}
}

func TestEndsAreRememberedUpToABound(t *testing.T) {
	drop, kept := sweepStates(noon), 0
	for i := range rememberedEnds + 1000 {
		st := &keyState{}
		st.end.Store(st.end.Load().Refused(fmt.Sprint(i), "token", io.EOF))
		if !drop(st, false) {
			kept++
		}
	}
	if kept != rememberedEnds {
		t.Errorf("%d are remembered, want %d", kept, rememberedEnds)
	}
}

func secrets() *Session {
	return &Session{AccessToken: "acc/5ecret?=&+", RefreshToken: "ref\n5ecret\"\x01"}
}

func TestARedactedRefreshErrorIsStillOne(t *testing.T) {
	s := secrets()
	err := redactError(&RefreshError{
		StatusCode: 403, Code: s.AccessToken, Message: strings.Repeat("x", 190) + s.AccessToken,
		RetryAfter: time.Second, Err: fmt.Errorf("%w: %s", ErrSessionExpired, s.RefreshToken),
	}, nil, &Session{}, s)
	var refused *RefreshError
	if !errors.As(err, &refused) || refused.StatusCode != 403 || refused.RetryAfter != time.Second || !errors.Is(err, ErrSessionExpired) {
		t.Fatalf("got %#v", err)
	}
	if len(refused.Message) > maxMessage || strings.Contains(refused.Message, "acc/") {
		t.Errorf("the message was cut before it was redacted: %q", refused.Message)
	}
	if text := fmt.Sprintf("%v %+v %#v", refused, *refused, refused.Err); strings.Contains(text, "5ecret") {
		t.Errorf("a token is left: %s", text)
	}
}

func TestRedactErrorLeavesTheOriginalAlone(t *testing.T) {
	s := secrets()
	original := &RefreshError{Message: s.AccessToken}
	_ = redactError(original, s)
	if original.Message != s.AccessToken {
		t.Error("the error of somebody else was changed")
	}
	if redactError(nil, s) != nil || redactError(io.EOF, s) != io.EOF {
		t.Error("a clean error was replaced")
	}
}

func TestALongMessageIsCut(t *testing.T) {
	err := redactError(&RefreshError{Message: strings.Repeat("é", 5000), Code: strings.Repeat("c", 5000)})
	if refused := err.(*RefreshError); len(refused.Message) > maxMessage || len(refused.Code) != maxMessage || !strings.HasSuffix(refused.Message, "é...") {
		t.Errorf("got %d and %d bytes", len(refused.Message), len(refused.Code))
	}
	whole := strings.Repeat("m", maxMessage)
	if refused := redactError(&RefreshError{Message: whole}).(*RefreshError); refused.Message != whole {
		t.Errorf("what is long enough became %q", refused.Message)
	}
}

func TestRefreshErrorSaysWhatIsKnown(t *testing.T) {
	for _, row := range []struct {
		err  RefreshError
		want string
	}{
		{RefreshError{}, "walletauth: refresh failed"},
		{RefreshError{Err: io.EOF}, "walletauth: refresh failed: EOF"},
		{RefreshError{StatusCode: 599}, "walletauth: refresh failed: status 599"},
		{
			RefreshError{StatusCode: 401, Code: "invalid", Message: "no such token", Err: ErrSessionExpired},
			`walletauth: refresh failed: status 401 Unauthorized: code "invalid": "no such token": the session is over: log in again`,
		},
		{RefreshError{StatusCode: 429, RetryAfter: 3 * time.Second}, "walletauth: refresh failed: status 429 Too Many Requests: retry after 3s"},
	} {
		if got := row.err.Error(); got != row.want {
			t.Errorf("got  %s\nwant %s", got, row.want)
		}
	}
}

func TestStoreErrorWrapsWhatIsTheStores(t *testing.T) {
	alive := t.Context()
	left, leave := context.WithCancel(alive)
	leave()
	full, none, already := errors.New("full"), fmt.Errorf("%w: wrapped", ErrNoSession), &StoreError{Op: "exclusion", Err: io.EOF}
	for name, row := range map[string]struct {
		ctx  context.Context
		err  error
		want string // "" if the error comes as it is
		is   error
	}{
		"the store's own":                {alive, full, "walletauth: session store: load: full", full},
		"not that there is none":         {alive, none, "", none},
		"not twice":                      {alive, already, "", already},
		"not the end of the caller":      {left, fmt.Errorf("gave up: %w", context.Canceled), "gave up: context canceled", context.Canceled},
		"the store's own end":            {alive, context.Canceled, "walletauth: session store: load: context canceled", context.Canceled},
		"what failed as the caller left": {left, full, "walletauth: session store: load: full", full},
	} {
		t.Run(name, func(t *testing.T) {
			got := storeError(row.ctx, "load", row.err)
			if !errors.Is(got, row.is) || row.want == "" && got != row.err || row.want != "" && got.Error() != row.want {
				t.Errorf("got %v, want %s", got, row.want)
			}
		})
	}
	if err := storeError(alive, "load", nil); err != nil {
		t.Errorf("success is %v", err)
	}
}

func TestTransientFailures(t *testing.T) {
	dial, read := &net.OpError{Op: "dial", Err: io.EOF}, &net.OpError{Op: "read", Err: errors.New("reset")}
	for name, row := range map[string]struct {
		err              error
		transient, never bool
	}{
		"no reply":               {&RefreshError{Err: io.EOF}, true, false},
		"408":                    {&RefreshError{StatusCode: 408}, true, false},
		"429":                    {&RefreshError{StatusCode: 429}, true, false},
		"500":                    {&RefreshError{StatusCode: 500}, true, false},
		"599":                    {&RefreshError{StatusCode: 599}, true, false},
		"404":                    {&RefreshError{StatusCode: 404}, false, false},
		"a page with status 200": {&RefreshError{StatusCode: 200}, false, false},
		"a redirect":             {&RefreshError{StatusCode: 307}, false, false},
		"the end of a session":   {&RefreshError{Err: ErrSessionExpired}, false, false},
		"a connection refused":   {fmt.Errorf("post: %w", dial), true, true},
		"a connection reset":     {&RefreshError{Err: read}, true, false},
		"cut off":                {io.ErrUnexpectedEOF, true, false},
		"closed":                 {fmt.Errorf("post: %w", io.EOF), true, false},
		"anything else":          {errors.New("odd"), false, false},
	} {
		if got, never := transient(row.err), neverSent(row.err); got != row.transient || never != row.never {
			t.Errorf("%s: transient %t, never sent %t, want %t, %t", name, got, never, row.transient, row.never)
		}
	}
}

func TestWhatMayReplaceAStaleSession(t *testing.T) {
	stale := &Session{AccessToken: "a", AccessTokenExpiresAt: noon}
	later := &Session{AccessToken: "a", AccessTokenExpiresAt: noon.Add(time.Second)}
	another := &Session{AccessToken: "b", AccessTokenExpiresAt: noon}
	for name, c := range map[string]struct {
		s    *Session
		why  Reason
		want bool
	}{
		"another token, before the expiry":             {another, Expiring, true},
		"another token, after a 401":                   {another, Rejected, true},
		"a later expiry, before the expiry":            {later, Expiring, true},
		"a later expiry, after it":                     {later, Expired, true},
		"not a later expiry of a token that got a 401": {later, Rejected, false},
		"not the same":                                 {stale, Expired, false},
	} {
		if got := newer(c.s, stale, c.why); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func FuzzRefreshReply(f *testing.F) {
	f.Add(200, "application/json", `{"id":"s","created_at":"2026-03-01T12:00:00Z","project_id":"p","user_id":"u","access_token":"a","access_token_expires_at":"2026-03-01T12:05:00Z","refresh_token":"r","refresh_token_expires_at":"2026-04-01T12:05:00Z"}`)
	f.Add(200, "application/json", `{"access_token":"a"}`)
	f.Add(401, "application/json", `{"code":null,"error":"invalid refresh token"}`)
	f.Add(401, "application/problem+json; charset=utf-8", `{"error":"invalid refresh token"}`)
	f.Add(401, "application/json", `{"Error":"somebody else's"}`)
	f.Add(403, "text/html", `<html>forbidden</html>`)
	f.Add(503, "", "")
	f.Add(307, "", "")
	f.Fuzz(func(t *testing.T, status int, kind, body string) {
		r := httpRefresher{server: &serverclock.Clock{Local: &testClock{noon}}}
		header := http.Header{"Content-Type": {kind}}
		s, err := r.read(&http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))})
		if err == nil {
			if status != http.StatusOK || s == nil {
				t.Fatalf("status %d and %q made %v", status, body, s)
			}
			old := sessionOf("user", 1)
			if next, err := (*api.Session)(old).Renew((*api.Session)(s), noon); err == nil && (next.UserID != old.UserID || next.ProjectID != old.ProjectID || next.Check() != nil) {
				t.Fatalf("%q made %v of %v", body, next, old)
			}
			return
		}
		var refused *RefreshError
		if s != nil || !errors.As(err, &refused) {
			t.Fatalf("a failure is %v and %T, not a RefreshError", s, err)
		}
		over := errors.Is(err, ErrSessionExpired)
		if _, _, ours := api.ErrorResponse(header, []byte(body)); over != (ours && (status == 400 || status == 401 || status == 403)) {
			t.Fatalf("status %d, %q and %q ended the session: %t", status, kind, body, over)
		}
		if over && transient(err) {
			t.Fatal("an end that is tried again")
		}
	})
}
