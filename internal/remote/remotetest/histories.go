//go:build linux

package remotetest

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// historyLease is short, as the histories wait for the end of one.
const historyLease = 500 * time.Millisecond

// history is what happens to a process that is stopped in its Update for longer
// than its lease, and to the next holder of the lease.
type history struct {
	stopped *walletauth.Session // what the stopped process stores
	insists bool                // a login or a logout: what it stores does not depend on what is there
	next    *walletauth.Session // what the next holder stores, unless it is called again
	leaves  bool                // it stores nothing
	late    bool                // the next holder is done before the stopped process goes on
	want    string              // the access token in the end, "" for no session
	calls   int                 // of the stopped process's fn
	again   bool                // the next holder's fn is called again
}

var (
	loginBefore = Session("before")
	sooner      = refreshed(loginBefore, "sooner", time.Hour)
	later       = refreshed(loginBefore, "later", 2*time.Hour)
	otherLogin  = loginAt(loginBefore.CreatedAt.Add(time.Second))
)

func loginAt(at time.Time) *walletauth.Session {
	s := Session("other")
	s.CreatedAt = at
	return s
}

// refreshed is what a refresh makes of s. An API may give it a new id.
func refreshed(s *walletauth.Session, name string, by time.Duration) *walletauth.Session {
	next := *s
	next.ID, next.AccessToken, next.RefreshToken = name, "access-"+name, "refresh-"+name
	next.AccessTokenExpiresAt = s.AccessTokenExpiresAt.Add(by)
	return &next
}

var histories = map[string]history{
	"what a stopped process stores late is taken":                      {stopped: later, leaves: true, want: later.AccessToken, calls: 1},
	"a late login is not undone by the next holder's refresh":          {stopped: otherLogin, insists: true, next: sooner, want: otherLogin.AccessToken, calls: 1, again: true},
	"a late logout is not undone by the next holder's refresh":         {stopped: nil, insists: true, next: sooner, want: "", calls: 1, again: true},
	"of two answers to one token the later stays, if it comes last":    {stopped: sooner, next: later, want: later.AccessToken, calls: 1},
	"of two answers to one token the later stays, if it came first":    {stopped: later, next: sooner, want: later.AccessToken, calls: 1, again: true},
	"a late refresh does not undo a refresh that has a later expiry":   {stopped: sooner, next: later, late: true, want: later.AccessToken, calls: 2},
	"a late refresh is stored if it has the later expiry":              {stopped: later, next: sooner, late: true, want: later.AccessToken, calls: 1},
	"a late refresh does not undo a login":                             {stopped: later, next: otherLogin, late: true, want: otherLogin.AccessToken, calls: 2},
	"a late refresh does not undo a logout":                            {stopped: later, next: nil, late: true, want: "", calls: 2},
	"a late login replaces a refresh of the session before":            {stopped: otherLogin, insists: true, next: sooner, late: true, want: otherLogin.AccessToken, calls: 2},
	"a late logout deletes what was made of the session that it ended": {stopped: nil, insists: true, next: sooner, late: true, want: "", calls: 2},
}

// Histories checks what is stored in the end when a lease is lost, with one
// other process. Nothing that was acknowledged is undone, and no good token is
// thrown away. All of the other processes start together.
func Histories(t *testing.T, open Open, place string) {
	store := open.store(t, place, historyLease)
	holders := make(map[string]*process)
	for name, h := range histories {
		if err := walletauth.Save(t.Context(), store, name, loginBefore); err != nil {
			t.Fatal(err)
		}
		holders[name] = start(t, order{Do: "hold", Place: place, Lease: historyLease, Key: name, Next: h.stopped, Insist: h.insists})
	}
	for _, p := range holders {
		p.ready()
		p.stopBetweenWrites(store)
	}
	for name, h := range histories {
		t.Run(name, func(t *testing.T) {
			p := holders[name]
			p.t = t
			next := beginUpdate(t, store, name, h)
			if h.late {
				next.finish()
			}
			p.end()
			p.signal(syscall.SIGCONT)
			var report held
			p.finish(&report)
			if !h.late {
				next.finish()
			}
			if !report.CtxEnded || report.Err != "" || report.Calls != h.calls {
				t.Errorf("the stopped process: %+v, want its ctx ended and %d calls of fn", report, h.calls)
			}
			if again := next.calls > 1; again != h.again {
				t.Errorf("the fn of the next holder was called %d times, called again should be %v", next.calls, h.again)
			}
			if got := stored(t, store, name); got != h.want {
				t.Errorf("in the end the access token is %q, want %q", got, h.want)
			}
		})
	}
}

// stopBetweenWrites stops a process that renews its lease, but not where it keeps
// others from writing: in a SQLite file there is one writer at a time, and nobody
// can help it if that one stands still.
func (p *process) stopBetweenWrites(store walletauth.TokenStore) {
	p.t.Helper()
	for range 100 {
		p.signal(syscall.SIGSTOP)
		if canWrite(p.t.Context(), store) {
			return
		}
		p.signal(syscall.SIGCONT)
	}
	p.t.Fatal("a hundred times nothing could be stored while the process was stopped")
}

func canWrite(ctx context.Context, store walletauth.TokenStore) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return walletauth.Save(ctx, store, "probe", loginBefore) == nil
}

// nextHolder is an Update in its fn.
type nextHolder struct {
	leave chan struct{}
	ended chan error
	t     *testing.T
	calls int
}

// beginUpdate waits for the lease and returns when fn runs.
func beginUpdate(t *testing.T, store walletauth.TokenStore, key string, of history) *nextHolder {
	t.Helper()
	h := &nextHolder{leave: make(chan struct{}), ended: make(chan error, 1), t: t}
	entered := make(chan struct{})
	go func() {
		h.ended <- store.Update(t.Context(), key, func(_ context.Context, current *walletauth.Session) (*walletauth.Session, error) {
			if h.calls++; h.calls > 1 {
				return current, nil
			}
			close(entered)
			<-h.leave
			if of.leaves {
				return current, nil
			}
			return of.next, nil
		})
	}()
	select {
	case <-entered:
	case err := <-h.ended:
		t.Fatalf("the next holder never began: %v", err)
	}
	return h
}

func (h *nextHolder) finish() {
	h.t.Helper()
	close(h.leave)
	if err := <-h.ended; err != nil {
		h.t.Errorf("the next holder's Update: %v", err)
	}
}

// stored is the access token that the server holds, "" if none.
func stored(t *testing.T, store walletauth.TokenStore, key string) (token string) {
	t.Helper()
	if err := store.Update(t.Context(), key, func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		if s != nil {
			token = s.AccessToken
		}
		return s, nil
	}); err != nil {
		t.Fatal(err)
	}
	return token
}

// Hand is what somebody with rights at the server can do to a key.
type Hand struct {
	Forget  func(key string) error                  // as FLUSHALL does, or DELETE
	Keep    func(key string) (restore func() error) // what is there now, for later
	Spoil   func(key string) error                  // so that no Codec can read it
	Deafen  func() error                            // close all subscriptions, which begin anew
	Another func() walletauth.TokenStore            // without copies, to see what is stored
}

// Losses checks what happens when the server forgets, loses or damages what it
// held.
func Losses(t *testing.T, store walletauth.TokenStore, hand Hand) {
	for name, check := range losses {
		t.Run(name, func(t *testing.T) {
			if err := walletauth.Save(t.Context(), store, name, loginBefore); err != nil {
				t.Fatal(err)
			}
			check(&loss{t, store, hand, name})
		})
	}
}

type loss struct {
	*testing.T
	store walletauth.TokenStore
	hand  Hand
	key   string
}

var losses = map[string]func(*loss){
	"forgotten during an Update, a refreshed session is stored": func(l *loss) {
		l.update(func(*walletauth.Session) *walletauth.Session {
			l.must(l.hand.Forget(l.key))
			return later
		})
		l.wantStored(later)
		l.update(func(*walletauth.Session) *walletauth.Session { return otherLogin })
		l.wantStored(otherLogin)
	},
	"forgotten during an Update, another login stays": func(l *loss) {
		calls := 0
		l.update(func(current *walletauth.Session) *walletauth.Session {
			if calls++; calls > 1 {
				return current
			}
			l.must(l.hand.Forget(l.key))
			l.must(walletauth.Save(l.Context(), l.hand.Another(), l.key, otherLogin))
			return later
		})
		l.wantStored(otherLogin)
	},
	"forgotten, it is a logout": func(l *loss) {
		l.must(l.hand.Forget(l.key))
		l.wantStored(nil)
	},
	"a save that is lost is stored again by the next Update": func(l *loss) {
		restore := l.hand.Keep(l.key)
		l.must(walletauth.Save(l.Context(), l.store, l.key, later))
		l.must(restore())
		l.update(func(current *walletauth.Session) *walletauth.Session {
			if current == nil || current.AccessToken != later.AccessToken {
				l.Errorf("after the loss fn is called with %v, whose token has been used", current)
			}
			return current
		})
		l.wantStored(later)
	},
	"a save that is lost is stored again by a Load": func(l *loss) {
		restore := l.hand.Keep(l.key)
		l.must(walletauth.Save(l.Context(), l.store, l.key, later))
		l.must(restore())
		l.must(l.hand.Deafen())
		for another := l.hand.Another(); ; <-time.After(10 * time.Millisecond) {
			if s, err := l.store.Load(l.Context(), l.key); err != nil || s.AccessToken != later.AccessToken {
				l.Fatalf("Load after the loss: %v, %v", s, err)
			}
			if s, err := another.Load(l.Context(), l.key); err == nil && s.AccessToken == later.AccessToken {
				return // or the test's own time is over
			}
		}
	},
	"what is lost but for a login is not brought back": func(l *loss) {
		restore := l.hand.Keep(l.key)
		l.must(walletauth.Save(l.Context(), l.store, l.key, otherLogin))
		l.must(restore())
		l.update(func(current *walletauth.Session) *walletauth.Session { return current })
		l.wantStored(loginBefore)
	},
	"unreadable, it fails Load and refreshes, and a login goes through": func(l *loss) {
		l.must(l.hand.Spoil(l.key))
		l.wantUnreadable()
		l.must(walletauth.Save(l.Context(), l.hand.Another(), l.key, otherLogin))
		l.wantStored(otherLogin)
	},
	"unreadable, a logout goes through": func(l *loss) {
		l.must(l.hand.Spoil(l.key))
		l.must(walletauth.Delete(l.Context(), l.hand.Another(), l.key))
		l.wantStored(nil)
	},
}

func (l *loss) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *loss) update(fn func(*walletauth.Session) *walletauth.Session) {
	l.Helper()
	l.must(l.store.Update(l.Context(), l.key, func(_ context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		return fn(current), nil
	}))
}

func (l *loss) wantStored(want *walletauth.Session) {
	l.Helper()
	s, err := l.hand.Another().Load(l.Context(), l.key)
	switch {
	case want == nil && !errors.Is(err, walletauth.ErrNoSession):
		l.Errorf("the server holds %v, %v, want no session", s, err)
	case want != nil && (err != nil || s.AccessToken != want.AccessToken):
		l.Errorf("the server holds %v, %v, want %v", s, err, want)
	}
}

func (l *loss) wantUnreadable() {
	l.Helper()
	another := l.hand.Another()
	if s, err := another.Load(l.Context(), l.key); !errors.Is(err, walletauth.ErrUnreadable) || errors.Is(err, walletauth.ErrNoSession) {
		l.Errorf("Load: %v, %v, want ErrUnreadable", s, err)
	}
	if err := another.Update(l.Context(), l.key, func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
		l.Error("fn is called though the session cannot be read")
		return nil, io.EOF
	}); !errors.Is(err, walletauth.ErrUnreadable) {
		l.Errorf("Update: %v, want ErrUnreadable", err)
	}
}
