package walletauthtest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/walletauth/walletauth"
)

func checkNoSession(t *storeTest) {
	t.wantStored("nobody", nil)
	t.save("somebody", generation("somebody", 1))
	t.wantStored("nobody", nil)
}

func checkRoundTrip(t *storeTest) {
	s := generation("k", 1)
	s.UserID = "üser \"quoted\" \\ <&> 用户 🙂"
	s.AccessToken = "eyJ" + strings.Repeat("x", 8000) + ".=+/~"
	t.save("k", s)
	t.wantStored("k", s)
	other := generation("k", 2)
	t.save("k", other)
	t.wantStored("k", other)
}

func checkReadYourWrites(t *storeTest) {
	for n := 1; n <= 50; n++ {
		s := generation("k", n)
		if n%5 == 0 {
			s = nil
		}
		t.save("k", s)
		t.wantLoaded("k", t.load("k"), s)
	}
}

func checkSamePointer(t *storeTest) {
	s := generation("k", 1)
	t.save("k", s)
	for range 3 {
		t.wantStored("k", s) // its Update returns the session it got
	}
}

func checkNilStaysNil(t *storeTest) {
	for range 3 {
		t.wantStored("k", nil)
	}
}

func checkDelete(t *storeTest) {
	t.save("k", generation("k", 1))
	t.save("k", nil)
	t.wantStored("k", nil)
	t.save("k", nil)
	t.wantStored("k", nil)
	again := generation("k", 2)
	t.save("k", again)
	t.wantStored("k", again)
}

var errOfFn = errors.New("an error of fn")

// failures are the ways for fn to fail: with a session, with none, and with
// an error that the store itself may know as "nothing there".
func failures(key string) map[string]updateFunc {
	fail := func(s *walletauth.Session, err error) updateFunc {
		return func(context.Context, *walletauth.Session) (*walletauth.Session, error) { return s, err }
	}
	return map[string]updateFunc{
		"a new session and an error": fail(generation(key, 9), errOfFn),
		"nil and an error":           fail(nil, errOfFn),
		"nil and ErrNoSession":       fail(nil, fmt.Errorf("%w: %w", errOfFn, walletauth.ErrNoSession)),
	}
}

func checkErrorReturned(t *storeTest) {
	for what, fn := range failures("k") {
		if err := t.update("k", fn); !errors.Is(err, errOfFn) {
			t.broken("fn returned %s, Update returned %v", what, err)
		}
	}
}

func checkErrorChangesNothing(t *storeTest) {
	for what, fn := range failures("k") {
		t.Logf("fn returns %s", what)
		_ = t.update("empty", fn) // checkErrorReturned looks at the error
		t.wantStored("empty", nil)
		s := generation("k", 1)
		t.save("k", s)
		_ = t.update("k", fn)
		t.wantStored("k", s)
	}
}

// glance is how long to look for what must not happen. If the machine is so
// slow that it would happen later, a broken store passes; none fails
// wrongly.
const glance = 200 * time.Millisecond

func checkExclusion(t *storeTest) {
	release := t.hold("k", generation("k", 1))
	entered := make(chan struct{})
	enter := sync.OnceFunc(func() { close(entered) })
	second := t.updating(t.Context(), "k", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		enter()
		return s, nil
	})
	select {
	case <-entered:
		t.broken("the fn of a second Update runs while the fn of the first does")
	case err := <-second:
		t.broken("a second Update returned while the fn of the first runs: %v", err)
	case <-time.After(glance):
	}
	if err := release(); err != nil {
		t.broken("the first Update: %v", err)
	}
	await(t, entered, "the second Update, after the end of the first")
}

func checkNoneLost(t *storeTest) {
	const workers, each = 8, 12
	var running atomic.Int32
	var overlap atomic.Bool
	increment := func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		if running.Add(1) != 1 {
			overlap.Store(true)
		}
		defer running.Add(-1)
		runtime.Gosched()
		return generation("k", number(s)+1), nil
	}
	errs := make(chan error, workers)
	for range workers {
		go func() {
			var err error
			for range each {
				err = errors.Join(err, t.store.Update(t.Context(), "k", increment))
			}
			errs <- err
		}()
	}
	for range workers {
		if err := await(t, errs, "12 Updates by each of 8 goroutines"); err != nil {
			t.broken("Update: %v", err)
		}
	}
	if overlap.Load() {
		t.broken("two Updates of one key ran at once")
	}
	t.wantStored("k", generation("k", workers*each))
}

func checkOtherKeysRun(t *storeTest) {
	release := t.hold("a", generation("a", 1))
	b := generation("b", 1)
	t.save("b", b)
	t.wantStored("b", b)
	if err := release(); err != nil {
		t.broken("Update of a: %v", err)
	}
}

func checkThousandKeys(t *storeTest) {
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprintf("user-%d", i)
	}
	t.updateAtOnce(keys)
	for _, key := range keys {
		t.wantLoaded(key, t.load(key), generation(key, 1))
	}
}

// updateAtOnce lets no fn go on until the fns of all keys run. It gives up when
// no more of them begin: how long all take together is a matter of the machine.
func (t *storeTest) updateAtOnce(keys []string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	entered, leave := make(chan struct{}, len(keys)), make(chan struct{})
	errs := make(chan error, len(keys))
	for _, key := range keys {
		go func() {
			enter := sync.OnceFunc(func() { entered <- struct{}{} })
			errs <- t.store.Update(ctx, key, func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
				enter()
				select {
				case <-leave:
					return generation(key, 1), nil
				case <-ctx.Done():
					return nil, context.Cause(ctx)
				}
			})
		}()
	}
	for n := range keys {
		await(t, entered, fmt.Sprintf("%d Updates of as many keys, all at once, of which %d began", len(keys), n))
	}
	close(leave)
	for range keys {
		if err := await(t, errs, "the ends of the Updates"); err != nil {
			t.broken("Update: %v", err)
		}
	}
}

func checkLoadDoesNotWait(t *storeTest) {
	before, after := generation("k", 1), generation("k", 2)
	t.save("k", before)
	release := t.hold("k", after)
	t.wantLoaded("k", t.load("k"), before)
	t.wantLoaded("other", t.load("other"), nil)
	if err := release(); err != nil {
		t.broken("Update: %v", err)
	}
	t.wantLoaded("k", t.load("k"), after)
}

func checkWaitCanceled(t *storeTest) {
	ctx, cancel := context.WithCancel(t.Context())
	t.wantWaitToEnd(ctx, cancel)
}

func checkWaitDeadline(t *storeTest) {
	ctx, cancel := context.WithTimeout(t.Context(), glance)
	t.Cleanup(cancel)
	t.wantWaitToEnd(ctx, func() {})
}

func checkEndedContext(t *storeTest) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	t.wantWaitToEnd(ctx, func() {})
}

// wantWaitToEnd has an Update wait with ctx behind another one, and the key
// usable afterwards.
func (t *storeTest) wantWaitToEnd(ctx context.Context, end func()) {
	t.Helper()
	s := generation("k", 1)
	release := t.hold("k", s)
	var called atomic.Bool
	waiting := t.updating(ctx, "k", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		called.Store(true)
		return s, nil
	})
	end()
	err := await(t, waiting, "an Update that waits for another, after its ctx ended")
	if !errors.Is(err, ctx.Err()) && !errors.Is(err, context.Cause(ctx)) || err == nil {
		t.broken("an Update that gave up waiting returned %v, want an error wrapping %v", err, ctx.Err())
	}
	if called.Load() {
		t.broken("the fn of an Update that gave up waiting was called")
	}
	if err := release(); err != nil {
		t.broken("the Update that was waited for: %v", err)
	}
	t.wantStored("k", s)
}

type callerKey struct{}

func checkContextOfFn(t *storeTest) {
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), callerKey{}, "the caller's"))
	defer cancel()
	var wrong string
	err := await(t, t.updating(ctx, "k", func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		wrong = lookAtContext(ctx)
		return s, nil
	}), "Update")
	if err != nil {
		t.broken("Update: %v", err)
	}
	if wrong != "" {
		t.broken("%s", wrong)
	}
}

func lookAtContext(ctx context.Context) (wrong string) {
	if ctx == nil {
		return "fn was given a nil ctx"
	}
	if ctx.Value(callerKey{}) != "the caller's" {
		return "the ctx of fn lacks the values of the ctx of Update"
	}
	select {
	case <-ctx.Done():
		return fmt.Sprintf("the ctx of fn has ended while fn runs: %v", context.Cause(ctx))
	case <-time.After(glance):
		return ""
	}
}

func checkStoredAfterContext(t *storeTest) {
	for n, was := range []*walletauth.Session{nil, generation("k", 1)} {
		key, next := fmt.Sprintf("k%d", n), generation("k", 2)
		t.save(key, was)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := await(t, t.updating(ctx, key, func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
			cancel()
			return next, nil
		}), "Update")
		if err != nil {
			t.broken("Update, whose ctx ended while fn ran: %v", err)
		}
		t.wantStored(key, next)
	}
}

func checkPanic(t *storeTest)  { t.wantKeyReleased(func() { panic("fn panics") }) }
func checkGoexit(t *storeTest) { t.wantKeyReleased(runtime.Goexit) }

func (t *storeTest) wantKeyReleased(leave func()) {
	t.Helper()
	before := generation("k", 1)
	t.save("k", before)
	left := make(chan struct{})
	go func() {
		defer close(left)
		defer func() { _ = recover() }() // a store may let it through, or make it an error
		_ = t.store.Update(t.Context(), "k", func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
			leave()
			return generation("k", 9), nil
		})
	}()
	await(t, left, "an Update whose fn does not return")
	t.wantStored("k", before)
	after := generation("k", 2)
	t.save("k", after)
	t.wantStored("k", after)
}

func checkImmutable(t *storeTest) {
	s := generation("k", 1)
	t.save("k", s)
	kept := t.load("k")
	var current *walletauth.Session
	_ = t.update("k", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		current = s
		return generation("k", 2), nil
	})
	t.save("k", generation("k", 3))
	t.save("k", nil)
	for who, got := range map[string]*walletauth.Session{
		"that Load returned": kept.session, "that fn was given": current, "that fn returned": s,
	} {
		if diff := cmp.Diff(generation("k", 1), got); diff != "" {
			t.broken("a Session %s has changed since (-before +now):\n%s", who, diff)
		}
	}
}

func checkNotTorn(t *storeTest) {
	t.save("k", generation("k", 1))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	readers := make(chan string, 4)
	for range cap(readers) {
		go func() { readers <- t.readWhole(ctx, "k") }()
	}
	for n := 2; n <= 60; n++ {
		t.save("k", generation("k", n))
	}
	cancel()
	for range cap(readers) {
		if torn := await(t, readers, "Loads"); torn != "" {
			t.broken("%s", torn)
		}
	}
}

// readWhole loads until ctx ends and says what was wrong with a session.
func (t *storeTest) readWhole(ctx context.Context, key string) string {
	for ctx.Err() == nil {
		s, err := t.store.Load(t.Context(), key)
		if err != nil {
			return fmt.Sprintf("Load during Updates: %v", err)
		}
		own := *s // cmp panics on what changes under its eyes
		if diff := cmp.Diff(generation(key, number(&own)), &own); diff != "" {
			return fmt.Sprintf("Load returned parts of different sessions:\n%s", diff)
		}
		runtime.Gosched()
	}
	return ""
}

func checkManyKeys(t *storeTest) {
	key := func(i int) string { return fmt.Sprintf("user-%d", i) }
	for i := range 100 {
		t.save(key(i), generation(key(i), i+1))
	}
	t.save(key(50), nil)
	for i := range 100 {
		want := generation(key(i), i+1)
		if i == 50 {
			want = nil
		}
		t.wantStored(key(i), want)
	}
}

// oddKeys are pairwise different, and each has once been a file name, a
// column value or a Redis key that meant something else.
var oddKeys = []string{
	"", " ", "  ", "a", "A", "a ", " a", "a.", "a\t", "a\n", "a\x00", "\x00",
	".", "..", "../a", "/", "//", "/etc/passwd", `\`, `..\a`, "a/b", "a%2Fb", "a%2fb", "a:b", "C:", "~",
	"CON", "con", "nul.json", "COM1", "lpt9", "a.json", "a.tmp", ".lock",
	"a*", "a?", "{a}", "a}:s", "a:l", "-rf", "$HOME", "%", "%s", "'; DROP TABLE sessions;--", `"`, "NULL", "null", "0",
	"\u00e9", "e\u0301", "用户", "🙂", "\u202e", "\ufeff", "\xff", "\xfe\xff", "\xed\xa0\x80", "\ufffd",
	strings.Repeat("x", 255), strings.Repeat("x", 256), strings.Repeat("x", 9999) + "1", strings.Repeat("x", 9999) + "2",
}

func checkOddKeys(t *storeTest) {
	t.updateAtOnce(oddKeys)
	for i, key := range oddKeys {
		t.wantStored(key, generation(key, 1))
		t.save(key, generation(key, i+2))
	}
	for i, key := range oddKeys {
		t.wantStored(key, generation(key, i+2))
	}
	for i, key := range oddKeys {
		t.save(key, nil)
		t.wantStored(key, nil)
		if i+1 < len(oddKeys) {
			t.wantStored(oddKeys[i+1], generation(oddKeys[i+1], i+3))
		}
	}
}

// checkCalledAgain looks at what fn is given. A store that finds another session
// in place when it is about to store calls fn again; here nothing changes while
// fn runs, so that two calls with the same session had no reason.
func checkCalledAgain(t *storeTest) {
	for n := range 4 {
		var given []*walletauth.Session
		err := t.update("k", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			given = append(given, s)
			return generation("k", n+1), nil
		})
		if err != nil {
			t.broken("Update: %v", err)
		}
		if len(given) == 0 {
			t.broken("Update returned without calling fn")
		}
		for i := 1; i < len(given); i++ {
			if cmp.Equal(given[i-1], given[i]) {
				t.broken("fn was called again with the session that it had been given")
			}
		}
		t.wantStored("k", generation("k", n+1))
	}
}

func checkSaveIfAbsent(t *storeTest) {
	t.wantOnlyOneStored("nobody's")
	release := t.hold("somebody's", generation("somebody's", 99))
	others := t.saveIfAbsent("somebody's", 3)
	time.Sleep(glance) // those who do not wait store now
	if err := release(); err != nil {
		t.broken("Update: %v", err)
	}
	if stored := others(); len(stored) > 0 {
		t.broken("SaveIfAbsent stored %d times over the session of an Update that was running", len(stored))
	}
	t.wantStored("somebody's", generation("somebody's", 99))
}

func (t *storeTest) wantOnlyOneStored(key string) {
	t.Helper()
	stored := t.saveIfAbsent(key, 8)()
	if len(stored) != 1 {
		t.stop("of 8 SaveIfAbsent at once %d stored, want 1", len(stored))
	}
	t.wantStored(key, generation(key, stored[0]))
}

// saveIfAbsent starts n calls, each with a generation of its own, and returns
// those generations that were reported as stored.
func (t *storeTest) saveIfAbsent(key string, n int) (wait func() []int) {
	t.Helper()
	results := make([]<-chan int, n)
	for i := range results {
		results[i] = async(func() int {
			stored, err := walletauth.SaveIfAbsent(t.Context(), t.store, key, generation(key, i+1))
			if err != nil {
				t.broken("SaveIfAbsent: %v", err)
			}
			if stored {
				return i + 1
			}
			return 0
		})
	}
	return func() (stored []int) {
		for _, result := range results {
			if n := await(t, result, "SaveIfAbsent"); n > 0 {
				stored = append(stored, n)
			}
		}
		return stored
	}
}

func checkReplace(t *storeTest) {
	t.save("other", generation("other", 1))
	for n, s := range []*walletauth.Session{nil, generation("k", 1), generation("k", 2), nil, nil, generation("k", 3)} {
		if err := await(t, t.replacing(t.Context(), "k", s), "Replace"); err != nil {
			t.broken("Replace %d: %v", n, err)
		}
		t.wantLoaded("k", t.load("k"), s)
		t.wantStored("k", s)
	}
	t.wantStored("other", generation("other", 1))
}

func checkReplaceWaits(t *storeTest) {
	t.replacer()
	release := t.hold("k", generation("k", 1))
	login := t.replacing(t.Context(), "k", generation("k", 2))
	if err := await(t, t.replacing(t.Context(), "other", generation("other", 1)), "Replace of another key"); err != nil {
		t.broken("Replace of another key: %v", err)
	}
	select {
	case err := <-login:
		t.stop("Replace returned while the fn of an Update runs: %v", err)
	case <-time.After(glance):
	}
	t.wantLoaded("k", t.load("k"), nil)
	if err := release(); err != nil {
		t.broken("the Update: %v", err)
	}
	if err := await(t, login, "Replace, after the end of the Update"); err != nil {
		t.broken("Replace: %v", err)
	}
	t.wantStored("k", generation("k", 2))
}

func checkReplaceContext(t *storeTest) {
	t.replacer()
	release := t.hold("k", generation("k", 1))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting := t.replacing(ctx, "k", generation("k", 2))
	cancel()
	if err := await(t, waiting, "a Replace that waits for an Update, after its ctx ended"); !errors.Is(err, context.Canceled) {
		t.broken("a Replace that gave up waiting returned %v, want an error wrapping %v", err, context.Canceled)
	}
	if err := release(); err != nil {
		t.broken("the Update: %v", err)
	}
	t.wantStored("k", generation("k", 1))
}

func checkUnreadable(t *storeTest) {
	t.corrupted("k")
	for range 2 { // the second answer may come from memory
		got := t.load("k")
		t.wantUnreadable("Load", got.err)
		if got.session != nil {
			t.broken("Load returns a session with its error")
		}
		t.wantUnreadable("Update", t.update("k", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			t.broken("fn is called with %v in place of a session that cannot be read", s)
			return s, nil
		}))
	}
}

func (t *storeTest) wantUnreadable(who string, err error) {
	t.Helper()
	if !errors.Is(err, walletauth.ErrUnreadable) || errors.Is(err, walletauth.ErrNoSession) {
		t.broken("%s of a session that cannot be read: error %v, want one wrapping ErrUnreadable", who, err)
	}
}

func checkUnreadableAlone(t *storeTest) {
	t.corrupted("k")
	other := generation("other", 1)
	t.save("other", other)
	t.wantStored("other", other)
	t.wantStored("nobody", nil)
}

func checkLoginOverUnreadable(t *storeTest) {
	t.corrupted("k")
	login := generation("k", 2)
	err := await(t, async(func() error { return walletauth.Save(t.Context(), t.store, "k", login) }), "Save")
	if err != nil {
		t.stop("Save over a session that cannot be read: %v", err)
	}
	t.wantStored("k", login)
}

func checkLogoutOverUnreadable(t *storeTest) {
	t.corrupted("k")
	err := await(t, async(func() error { return walletauth.Delete(t.Context(), t.store, "k") }), "Delete")
	if err != nil {
		t.stop("Delete of a session that cannot be read: %v", err)
	}
	t.wantStored("k", nil)
}
