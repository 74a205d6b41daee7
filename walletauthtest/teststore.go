package walletauthtest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/walletauth/walletauth"
)

// TestStore checks that a TokenStore keeps the contract that
// [walletauth.TokenStore] states. Call it from a test of the store:
//
//	func TestStore(t *testing.T) {
//		walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore {
//			return &filestore.Store{Dir: t.TempDir()}
//		})
//	}
//
// newStore is called once for each of the subtests, with the subtest's t, and
// returns a store without sessions, ready for use; what it opened it closes by
// t.Cleanup. It calls t.Fatal if it cannot.
//
// A store that is a [walletauth.Replacer] is also checked as one. To check what
// holds where a stored session cannot be read, let newStore return a store that
// is a [Corrupter] as well. Subtests of an ability that the store lacks are
// skipped and say so.
//
// Run it under the race detector. A failure names the rule that was broken. A
// store that keeps the contract never fails: where the contract asks that
// something does not wait, 10 seconds are allowed, and nothing depends on an
// Update being fast. A store that breaks it may pass, since a race need
// not show. What must hold between processes [TestProcesses] checks.
func TestStore(t *testing.T, newStore func(t *testing.T) walletauth.TokenStore) {
	testStore(t, newStore, 10*time.Second)
}

// Corrupter is an ability of a store under test: [TestStore] uses it to check
// what holds where a stored session cannot be read. Programs do not need it, so
// a test adds it to the store:
//
//	type corruptible struct{ *filestore.Store }
//
//	func (c corruptible) Corrupt(t testing.TB, key string) { ... }
type Corrupter interface {
	// Corrupt damages the stored session of key in such a way that the store
	// cannot read it, as a lost encryption key or a bad disk block does. There
	// is a session when it is called. It calls t.Fatal if it cannot.
	Corrupt(t testing.TB, key string)
}

func testStore(t *testing.T, newStore func(t *testing.T) walletauth.TokenStore, patience time.Duration) {
	lacks := make(map[ability]bool)
	for _, c := range storeChecks {
		if lacks[c.needs] {
			continue // the first subtest that needs it was skipped and said why
		}
		t.Run(c.name, func(t *testing.T) {
			defer func() { lacks[c.needs] = t.Skipped() && c.needs != plain }()
			c.run(&storeTest{T: t, store: newStore(t), rule: c.rule, patience: patience})
		})
	}
}

// ability is what a check needs of a store beyond a TokenStore.
type ability string

const (
	plain      ability = ""
	replaces   ability = "Replacer"
	corrupting ability = "Corrupter"
)

// storeChecks is the whole suite. The name of a check states what holds if it
// passes; the rule is the part of the contract behind it.
var storeChecks = []struct {
	name, rule string
	run        func(*storeTest)
	needs      ability
}{
	{"no session is ErrNoSession", "Load returns the session of key, or an error wrapping ErrNoSession if there is none", checkNoSession, plain},
	{"what is saved is loaded", "Update stores what fn returns", checkRoundTrip, plain},
	{"an Update is seen by the next Load", "Update stores what fn returns", checkReadYourWrites, plain},
	{"the same pointer changes nothing", "the same pointer leaves the store as it is", checkSamePointer, plain},
	{"no session stays no session", "fn gets nil if there is no session; the same pointer leaves the store as it is", checkNilStaysNil, plain},
	{"nil deletes", "nil deletes (deleting what is not there is not an error)", checkDelete, plain},
	{"an error of fn is returned", "an error of fn is returned", checkErrorReturned, plain},
	{"an error of fn changes nothing", "an error of fn changes nothing", checkErrorChangesNothing, plain},
	{"Updates of one key exclude each other", "while fn runs, no other Update of that key runs", checkExclusion, plain},
	{"no Update is lost", "while fn runs, no other Update of that key runs; fn gets the session of key", checkNoneLost, plain},
	{"Updates of other keys run", "Updates of other keys do run", checkOtherKeysRun, plain},
	{"1000 keys are updated at once", "Updates of other keys do run", checkThousandKeys, plain},
	{"Load does not wait for an Update", "Load must be fast and not wait for an Update", checkLoadDoesNotWait, plain},
	{"waiting ends when ctx is canceled", "waiting for that exclusion ends with ctx", checkWaitCanceled, plain},
	{"waiting ends at the deadline of ctx", "waiting for that exclusion ends with ctx", checkWaitDeadline, plain},
	{"an ended ctx is not waited with", "waiting for that exclusion ends with ctx", checkEndedContext, plain},
	{"fn gets a live ctx with the values of the caller's", "the ctx of fn ends when exclusion is lost, and not before", checkContextOfFn, plain},
	{"what fn returns is stored though ctx has ended", "what fn returns after its ctx has ended is still stored unless somebody else has stored something meanwhile", checkStoredAfterContext, plain},
	{"a panic in fn releases the key", "no other Update of that key runs while fn runs, and fn has ended", checkPanic, plain},
	{"a Goexit in fn releases the key", "no other Update of that key runs while fn runs, and fn has ended", checkGoexit, plain},
	{"a Session never changes", "the Session is shared: neither the store nor the caller may change it afterwards", checkImmutable, plain},
	{"a Load during Updates sees a whole session", "the Session is shared: neither the store nor the caller may change it afterwards", checkNotTorn, plain},
	{"keys do not mix", "Load returns the session of key", checkManyKeys, plain},
	{"any string is a key", "keys are the user's: any string", checkOddKeys, plain},
	{"fn is called again only for another session", "fn may be called again with another current, and only then", checkCalledAgain, plain},
	{"SaveIfAbsent stores one of many", "while fn runs, no other Update of that key runs; fn gets the session of key", checkSaveIfAbsent, plain},
	{"Replace stores and deletes", "Replace stores s as the session of key, nil deletes", checkReplace, replaces},
	{"Replace waits for an Update", "Replace stores s under the same exclusion as Update", checkReplaceWaits, replaces},
	{"Replace ends its wait with ctx", "Replace stores s under the same exclusion as Update, and its errors are those of ctx", checkReplaceContext, replaces},
	{"an unreadable session is ErrUnreadable", "Load and Update return an error wrapping ErrUnreadable if the stored session cannot be read, and not ErrNoSession, which would log the user out", checkUnreadable, corrupting},
	{"an unreadable session is one key's alone", "a session that cannot be read changes nothing for other keys", checkUnreadableAlone, corrupting},
	{"an unreadable session gives way to a login", "Save goes through where the stored session cannot be read: Replace does not read it", checkLoginOverUnreadable, corrupting},
	{"an unreadable session gives way to a logout", "Delete goes through where the stored session cannot be read: Replace does not read it", checkLogoutOverUnreadable, corrupting},
}

// storeTest is one subtest. Its methods that wait give up after patience: a
// store that hangs fails the one subtest and not the whole test binary.
type storeTest struct {
	*testing.T
	store    walletauth.TokenStore
	rule     string
	patience time.Duration
}

func (t *storeTest) broken(format string, args ...any) {
	t.Helper()
	t.Errorf("%s\nthe rule is: %s", fmt.Sprintf(format, args...), t.rule)
}

// stop is broken for what leaves nothing to go on with.
func (t *storeTest) stop(format string, args ...any) {
	t.Helper()
	t.broken(format, args...)
	t.FailNow()
}

// await returns what ch delivers, and stops the test if that takes too long.
func await[T any](t *storeTest, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(t.patience):
		t.stop("%s: still waiting after %v", what, t.patience)
		panic("unreachable")
	}
}

// async calls fn in a goroutine of its own and delivers what it returns.
func async[T any](fn func() T) <-chan T {
	ch := make(chan T, 1) // nobody may be listening any more
	go func() { ch <- fn() }()
	return ch
}

type loaded struct {
	session *walletauth.Session
	err     error
}

func (t *storeTest) load(key string) loaded {
	t.Helper()
	return await(t, async(func() loaded {
		s, err := t.store.Load(t.Context(), key)
		return loaded{s, err}
	}), fmt.Sprintf("Load of %.40q", key))
}

type updateFunc = func(context.Context, *walletauth.Session) (*walletauth.Session, error)

func (t *storeTest) update(key string, fn updateFunc) error {
	t.Helper()
	return await(t, t.updating(t.Context(), key, fn), fmt.Sprintf("Update of %.40q", key))
}

func (t *storeTest) updating(ctx context.Context, key string, fn updateFunc) <-chan error {
	return async(func() error { return t.store.Update(ctx, key, fn) })
}

// become is an fn that stores s, whatever is there.
func become(s *walletauth.Session) updateFunc {
	return func(context.Context, *walletauth.Session) (*walletauth.Session, error) { return s, nil }
}

// save stores s, and stops the test if it cannot.
func (t *storeTest) save(key string, s *walletauth.Session) {
	t.Helper()
	if err := t.update(key, become(s)); err != nil {
		t.stop("Update of %.40q: %v", key, err)
	}
}

// wantStored checks that key has the session want, or none if want is nil, for
// Load as well as for Update.
func (t *storeTest) wantStored(key string, want *walletauth.Session) {
	t.Helper()
	got := t.load(key)
	t.wantLoaded(key, got, want)
	var current *walletauth.Session
	if err := t.update(key, func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		current = s
		return s, nil
	}); err != nil {
		t.broken("Update of %.40q: %v", key, err)
		return
	}
	if diff := cmp.Diff(want, current); diff != "" {
		t.broken("Update of %.40q passes another session to fn than was stored (-want +got):\n%s", key, diff)
	}
}

func (t *storeTest) wantLoaded(key string, got loaded, want *walletauth.Session) {
	t.Helper()
	switch {
	case want == nil && !errors.Is(got.err, walletauth.ErrNoSession):
		t.broken("Load of %.40q, which has no session: %v, error %v, want ErrNoSession", key, got.session, got.err)
	case want != nil && got.err != nil:
		t.broken("Load of %.40q: %v", key, got.err)
	case want != nil:
		if diff := cmp.Diff(want, got.session); diff != "" {
			t.broken("Load of %.40q returns another session than was stored (-want +got):\n%s", key, diff)
		}
	}
}

// hold starts an Update of key and returns when its fn runs. The fn goes on
// running until release is called, then stores next.
func (t *storeTest) hold(key string, next *walletauth.Session) (release func() error) {
	t.Helper()
	entered, leave := make(chan struct{}), make(chan struct{})
	enter := sync.OnceFunc(func() { close(entered) }) // fn may be called again
	ended := t.updating(t.Context(), key, func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
		enter()
		<-leave
		return next, nil
	})
	released := false
	open := func() {
		if !released {
			released = true
			close(leave)
		}
	}
	t.Cleanup(open) // a test that stopped leaves no goroutine behind
	select {
	case <-entered:
	case err := <-ended:
		t.stop("Update of %.40q returned without calling fn: %v", key, err)
	case <-time.After(t.patience):
		t.stop("Update of %.40q has not called fn after %v, though nothing holds it up", key, t.patience)
	}
	return func() error {
		open()
		return await(t, ended, fmt.Sprintf("the end of an Update of %.40q", key))
	}
}

// replacer returns the store as a Replacer, and skips the test if it is none.
func (t *storeTest) replacer() walletauth.Replacer {
	t.Helper()
	r, ok := t.store.(walletauth.Replacer)
	if !ok {
		t.Skipf("%T is no walletauth.Replacer, which is optional: with one, logins and logouts also work where the stored session cannot be read", t.store)
	}
	return r
}

func (t *storeTest) replacing(ctx context.Context, key string, s *walletauth.Session) <-chan error {
	t.Helper()
	r := t.replacer()
	return async(func() error { return r.Replace(ctx, key, s) })
}

// corrupted saves a session under key and makes it unreadable. It skips the test
// if the store cannot be told to.
func (t *storeTest) corrupted(key string) {
	t.Helper()
	c, ok := t.store.(Corrupter)
	if !ok {
		t.Skipf("%T is no walletauthtest.Corrupter: whether it copes with a stored session that cannot be read was not checked", t.store)
	}
	t.save(key, generation(key, 1))
	c.Corrupt(t, key)
}

// generation makes the nth session of key, all of whose fields tell n. Times
// are whole milliseconds, which every database keeps.
func generation(key string, n int) *walletauth.Session {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC).Add(time.Duration(n) * time.Minute)
	return &walletauth.Session{
		ID:        fmt.Sprintf("session-%d", n),
		CreatedAt: at, ProjectID: fmt.Sprintf("project-%d", n),
		UserID:      fmt.Sprintf("user-%x-%d", key[:min(len(key), 40)], n),
		AccessToken: fmt.Sprintf("access-%d", n), AccessTokenExpiresAt: at.Add(5 * time.Minute),
		RefreshToken: fmt.Sprintf("refresh-%d", n), RefreshTokenExpiresAt: at.Add(30 * 24 * time.Hour),
	}
}

// number is the n that generation was given, 0 for no session.
func number(s *walletauth.Session) (n int) {
	if s != nil {
		_, _ = fmt.Sscanf(s.AccessToken, "access-%d", &n) // 0 if the store made something up
	}
	return n
}
