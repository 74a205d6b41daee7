package walletauth_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestMemoryStoreKeepsTheContract(t *testing.T) {
	walletauthtest.TestStore(t, func(*testing.T) walletauth.TokenStore { return &walletauth.MemoryStore{} })
}

func TestFuncStoreKeepsTheContract(t *testing.T) {
	walletauthtest.TestStore(t, func(*testing.T) walletauth.TokenStore {
		var tb table
		return &walletauth.FuncStore{LoadFunc: tb.get, SaveFunc: tb.set}
	})
}

func storedLogin() *walletauth.Session {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return &walletauth.Session{
		ID: "sid", CreatedAt: at, ProjectID: "project", UserID: "user",
		AccessToken: "access-secret", AccessTokenExpiresAt: at.Add(5 * time.Minute),
		RefreshToken: "refresh-secret", RefreshTokenExpiresAt: at.Add(30 * 24 * time.Hour),
	}
}

func TestSaveRefusesAnIncompleteSession(t *testing.T) {
	var st walletauth.MemoryStore
	if err := walletauth.Save(t.Context(), &st, "", nil); err == nil || !strings.Contains(err.Error(), "the session is nil") {
		t.Errorf("nil: %v", err)
	}
	for field, drop := range map[string]func(*walletauth.Session){
		"id":                       func(s *walletauth.Session) { s.ID = "" },
		"created_at":               func(s *walletauth.Session) { s.CreatedAt = time.Time{} },
		"project_id":               func(s *walletauth.Session) { s.ProjectID = "" },
		"user_id":                  func(s *walletauth.Session) { s.UserID = "" },
		"access_token":             func(s *walletauth.Session) { s.AccessToken = "" },
		"access_token_expires_at":  func(s *walletauth.Session) { s.AccessTokenExpiresAt = time.Time{} },
		"refresh_token":            func(s *walletauth.Session) { s.RefreshToken = "" },
		"refresh_token_expires_at": func(s *walletauth.Session) { s.RefreshTokenExpiresAt = time.Time{} },
	} {
		s := storedLogin()
		drop(s)
		if err := walletauth.Save(t.Context(), &st, "", s); err == nil || !strings.HasSuffix(err.Error(), "lacks "+field) {
			t.Errorf("%v, want that %s is lacking", err, field)
		}
	}
	if _, err := st.Load(t.Context(), ""); !errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("something was stored: %v", err)
	}
}

func TestSaveKeepsACopyOfItsOwn(t *testing.T) {
	var st walletauth.MemoryStore
	s := storedLogin()
	if err := walletauth.Save(t.Context(), &st, "", s); err != nil {
		t.Fatal(err)
	}
	s.AccessToken = "changed"
	if got, err := st.Load(t.Context(), ""); err != nil || *got != *storedLogin() {
		t.Errorf("the store holds %v, %v", got, err)
	}
}

func TestSaveAndDeleteWithoutAStoreSaySo(t *testing.T) {
	for name, err := range map[string]error{
		"Save":   walletauth.Save(t.Context(), nil, "", storedLogin()),
		"Delete": walletauth.Delete(t.Context(), nil, ""),
	} {
		if err == nil || !strings.Contains(err.Error(), "TokenStore is nil") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeleteOfWhatIsNotThereIsNoError(t *testing.T) {
	var tb table
	for _, st := range []walletauth.TokenStore{&walletauth.MemoryStore{}, &walletauth.FuncStore{LoadFunc: tb.get, SaveFunc: tb.set}} {
		for range 2 {
			if err := walletauth.Delete(t.Context(), st, "nobody"); err != nil {
				t.Errorf("%T: %v", st, err)
			}
		}
	}
}

func TestSaveWaitsForExclusionUntilItsCtxEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		release := k.hold()
		defer release()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for name, change := range map[string]func() error{
			"Save":   func() error { return walletauth.Save(ctx, k.Store, "", storedLogin()) },
			"Delete": func() error { return walletauth.Delete(ctx, k.Store, "") },
		} {
			if err := change(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if *k.stored() != *k.first {
			t.Error("the session was changed all the same")
		}
	})
}

func TestAKeyIsAnyStringAndTheEmptyOneWithoutWithKey(t *testing.T) {
	if key := walletauth.KeyFromContext(t.Context()); key != "" {
		t.Errorf("key %q", key)
	}
	for _, key := range []string{"", "a", "../x\x00\n", strings.Repeat("k", 1<<16)} {
		ctx := walletauth.WithKey(walletauth.WithKey(t.Context(), "outer"), key)
		if got := walletauth.KeyFromContext(ctx); got != key {
			t.Errorf("key %.20q, want %.20q", got, key)
		}
	}
}

func TestEachRequestUsesTheSessionOfItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		for user := range 10 {
			k.login(fmt.Sprint(user), fmt.Sprint("user-", user))
		}
		for i := range 100 {
			if _, err := k.get(walletauth.WithKey(t.Context(), fmt.Sprint(i%10))); err != nil {
				t.Fatal(err)
			}
		}
		for user := range 10 {
			if n := k.srv.User(fmt.Sprint("user-", user)).Requests; n != 10 {
				t.Errorf("user %d: %d requests, want 10", user, n)
			}
		}
	})
}

func TestUpdatesOfOneKeyDoNotWaitForThoseOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		release := k.hold()
		defer release()
		start := time.Now()
		k.login("other", "other")
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %s", took)
		}
	})
}

func TestFuncStoreSavesWhatWasBoughtAlthoughTheCallerHasLeft(t *testing.T) {
	for name, c := range map[string]struct {
		leave string
		want  error
	}{"during fn": {"fn", nil}, "during the save": {"save", context.Canceled}} {
		ctx, cancel := context.WithCancel(t.Context())
		var tb table
		st := &walletauth.FuncStore{LoadFunc: tb.get, SaveFunc: func(ctx context.Context, _ string, _ *walletauth.Session) error {
			if c.leave == "save" {
				cancel()
			}
			return ctx.Err()
		}}
		err := st.Update(ctx, "", func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
			if c.leave == "fn" {
				cancel()
			}
			return storedLogin(), nil
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		cancel()
	}
}

func TestFuncStoreSaysWhichFunctionIsMissing(t *testing.T) {
	var tb table
	for want, st := range map[string]*walletauth.FuncStore{
		"LoadFunc is nil": {SaveFunc: tb.set},
		"SaveFunc is nil": {LoadFunc: tb.get},
	} {
		if err := walletauth.Save(t.Context(), st, "", storedLogin()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want that %s", err, want)
		}
	}
	if _, err := (&walletauth.FuncStore{}).Load(t.Context(), ""); err == nil || errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("Load: %v, want that LoadFunc is nil", err)
	}
}

func TestFuncStoreReturnsTheProgramsErrors(t *testing.T) {
	down := errors.New("the database is down")
	fails := func(context.Context, string) (*walletauth.Session, error) { return nil, down }
	none := func(context.Context, string) (*walletauth.Session, error) {
		return nil, fmt.Errorf("row: %w", walletauth.ErrNoSession)
	}
	refuses := func(context.Context, string, *walletauth.Session) error { return down }
	for name, st := range map[string]*walletauth.FuncStore{
		"of LoadFunc": {LoadFunc: fails, SaveFunc: refuses},
		"of SaveFunc": {LoadFunc: none, SaveFunc: refuses},
	} {
		if err := walletauth.Save(t.Context(), st, "", storedLogin()); !errors.Is(err, down) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A new token is at stake, and losing it for good is worse than overwriting
// what cannot be read.
func TestFuncStoreSavesWhereItCannotLookAgain(t *testing.T) {
	var tb table
	var loads atomic.Int32
	st := &walletauth.FuncStore{SaveFunc: tb.set, LoadFunc: func(ctx context.Context, key string) (*walletauth.Session, error) {
		if loads.Add(1) > 1 {
			return nil, errFull
		}
		return tb.get(ctx, key)
	}}
	if err := walletauth.Save(t.Context(), st, "", storedLogin()); err != nil {
		t.Fatal(err)
	}
	if tb.rows[""] == nil {
		t.Error("nothing was saved")
	}
}

func TestAFuncStoreOfOneProcessExcludesItsUpdates(t *testing.T) {
	var tb table
	st := &walletauth.FuncStore{LoadFunc: tb.get, SaveFunc: tb.set}
	var inside, most atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			err := st.Update(t.Context(), "", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
				if n := inside.Add(1); n > most.Load() {
					most.Store(n)
				}
				defer inside.Add(-1)
				return s, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n != 1 {
		t.Errorf("%d Updates of one key at a time", n)
	}
}

const accessSecret, refreshSecret = "ACCESS-5ecret/with?odd&chars", "REFRESH-5ecret\nwith a break"

func secretSession() walletauth.Session {
	now := time.Date(2026, 3, 1, 12, 0, 0, 123, time.UTC)
	return walletauth.Session{
		ID: "session-1", CreatedAt: now, ProjectID: "project-1", UserID: "user-1",
		AccessToken: accessSecret, AccessTokenExpiresAt: now.Add(5 * time.Minute),
		RefreshToken: refreshSecret, RefreshTokenExpiresAt: now.Add(720 * time.Hour),
	}
}

// leaks reports whether text holds a piece of a secret, in any spelling.
func leaks(text string) bool { return strings.Contains(text, "5ecret") }

type holder struct {
	Session  walletauth.Session
	Pointer  *walletauth.Session
	Any      any
	List     []walletauth.Session
	ByKey    map[string]*walletauth.Session
	Embedded struct{ Inner *walletauth.Session }
}

func TestNoVerbPrintsAToken(t *testing.T) {
	s := secretSession()
	h := holder{Session: s, Pointer: &s, Any: s, List: []walletauth.Session{s}, ByKey: map[string]*walletauth.Session{"k": &s}}
	h.Embedded.Inner = &s
	for name, v := range map[string]any{"value": s, "pointer": &s, "struct": h, "pointer to struct": &h, "slice": h.List, "map": h.ByKey} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%20v", "%-5s", "%!", "%z"} {
			if text := fmt.Sprintf(verb, v); leaks(text) {
				t.Errorf("%s of a %s prints a token: %s", verb, name, text)
			}
		}
		if text := fmt.Sprint(v); leaks(text) {
			t.Errorf("Sprint of a %s prints a token: %s", name, text)
		}
	}
}

func TestPrintingSaysWhichSessionItIs(t *testing.T) {
	s := secretSession()
	for _, text := range []string{s.String(), s.GoString(), fmt.Sprintf("%v", &s), fmt.Sprintf("%#v", s)} {
		for _, want := range []string{"session-1", "user-1", "project-1", "2026-03-01T12:05:00Z", "[redacted]"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %s", text, want)
			}
		}
	}
	if got := fmt.Sprintf("%q", s); !strings.HasPrefix(got, `"walletauth.Session{`) {
		t.Errorf("%%q is not quoted: %s", got)
	}
	var none *walletauth.Session
	if got := fmt.Sprintf("%v", none); got != "<nil>" {
		t.Errorf("a nil session prints %s", got)
	}
}

func TestNoSlogHandlerPrintsAToken(t *testing.T) {
	s := secretSession()
	var out bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		l := slog.New(handler)
		l.Info("a", "value", s, "pointer", &s, slog.Group("g", "inner", s))
		l.With("s", s).WithGroup("g").Info("b", "p", &s)
		l.Info("c", "event", walletauth.Event{Type: walletauth.RefreshFailed, Err: errors.New("x")})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("d", "struct", holder{Session: s, Pointer: &s})
	if leaks(out.String()) {
		t.Errorf("a handler printed a token:\n%s", out.String())
	}
	if !strings.Contains(out.String(), "user_id") {
		t.Errorf("the session's fields are missing:\n%s", out.String())
	}
}

func TestSessionJSONIsTheAPIs(t *testing.T) {
	s := secretSession()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]string
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"id": "session-1", "created_at": "2026-03-01T12:00:00.000000123Z", "project_id": "project-1", "user_id": "user-1",
		"access_token": accessSecret, "access_token_expires_at": "2026-03-01T12:05:00.000000123Z",
		"refresh_token": refreshSecret, "refresh_token_expires_at": "2026-03-31T12:00:00.000000123Z",
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestJSONCodecKeepsEveryField(t *testing.T) {
	s := secretSession()
	s.AccessToken = "access" // one that may be sent
	data, err := walletauth.JSONCodec{}.Encode("key", &s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := walletauth.JSONCodec{}.Decode("another key", data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&s, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestJSONCodecNamesWhatIsWrongAndQuotesNothing(t *testing.T) {
	whole := func(change func(fields map[string]any)) string {
		s := secretSession()
		data, _ := json.Marshal(s)
		var fields map[string]any
		_ = json.Unmarshal(data, &fields)
		fields["access_token"] = "access-5ecret"
		change(fields)
		data, _ = json.Marshal(fields)
		return string(data)
	}
	set := func(name string, value any) string {
		return whole(func(f map[string]any) { f[name] = value })
	}
	for _, row := range []struct{ promise, data, want string }{
		{"nothing", "", "not valid JSON"},
		{"half of it", whole(func(map[string]any) {})[:200], "not valid JSON"},
		{"text", "5ecret", "not valid JSON"},
		{"a list", `["5ecret"]`, "not a JSON object"},
		{"null", "null", "lacks id"},
		{"a number for a token", set("access_token", 55555), "access_token is not a string"},
		{"an object for a token", set("refresh_token", map[string]string{"5ecret": "5ecret"}), "refresh_token is not a string"},
		{"a token for a time", set("created_at", "ACCESS-5ecret"), "created_at is not an RFC 3339 time"},
		{"a missing time", set("refresh_token_expires_at", ""), "lacks refresh_token_expires_at"},
		{"a missing id", set("id", ""), "lacks id"},
		{"a missing user", set("user_id", nil), "lacks user_id"},
		{"a missing project", set("project_id", ""), "lacks project_id"},
		{"a missing access token", set("access_token", ""), "lacks access_token"},
		{"a missing refresh token", set("refresh_token", nil), "lacks refresh_token"},
		{"a token with a line break", set("access_token", "5ecret\r\nX: y"), "access_token cannot be sent in a header"},
		{"something behind it", whole(func(map[string]any) {}) + "5ecret", "not valid JSON"},
	} {
		t.Run(row.promise, func(t *testing.T) {
			s, err := walletauth.JSONCodec{}.Decode("key", []byte(row.data))
			if err == nil {
				t.Fatalf("decoded to %v", s)
			}
			if !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), "walletauth: ") {
				t.Errorf("error %q does not say %q", err, row.want)
			}
			if leaks(err.Error()) || errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("error %q quotes the data or looks like a logout", err)
			}
		})
	}
}

func TestEncodeRefusesWhatCannotBeRead(t *testing.T) {
	late := secretSession()
	late.AccessToken = "access"
	late.CreatedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) // beyond RFC 3339
	for name, s := range map[string]*walletauth.Session{"nil": nil, "empty": {}, "year 10000": &late} {
		if data, err := (walletauth.JSONCodec{}).Encode("key", s); err == nil || leaks(err.Error()) {
			t.Errorf("%s: encoded to %q, error %v", name, data, err)
		}
	}
}

// harmless is all that is said of data that is no session.
var harmless = regexp.MustCompile(`^walletauth: decode session: the session(` +
	` lacks ` + fieldName + `|'s ` + fieldName + ` is not a string|'s ` + fieldName + ` is not an RFC 3339 time|` +
	`'s access_token cannot be sent in a header| is not valid JSON| is not a JSON object)$`)

const fieldName = `(id|created_at|project_id|user_id|(access|refresh)_token(_expires_at)?)`

func FuzzStoredSession(f *testing.F) {
	s := secretSession()
	s.AccessToken = "access"
	data, err := walletauth.JSONCodec{}.Encode("", &s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"id":"5ecret","created_at":"5ecret"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := walletauth.JSONCodec{}.Decode("key", data)
		if err != nil {
			if errors.Is(err, walletauth.ErrNoSession) {
				t.Fatalf("unreadable data looks like a logout: %v", err)
			}
			if !harmless.MatchString(err.Error()) {
				t.Fatalf("an error that may quote the data: %v", err)
			}
			return
		}
		again, err := walletauth.JSONCodec{}.Encode("key", got)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		back, err := walletauth.JSONCodec{}.Decode("key", again)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if diff := cmp.Diff(got, back); diff != "" {
			t.Fatalf("a round trip changed the session:\n%s", diff)
		}
	})
}

// crowd is a store of any number of users that takes no memory: it makes up
// their sessions, which all began at the same time.
type crowd struct{ began time.Time }

func (c crowd) Load(_ context.Context, key string) (*walletauth.Session, error) {
	return &walletauth.Session{
		ID: "session " + key, CreatedAt: c.began, ProjectID: "project", UserID: "user " + key,
		AccessToken: "access token of " + key, AccessTokenExpiresAt: c.began.Add(5 * time.Minute),
		RefreshToken: "refresh token of " + key, RefreshTokenExpiresAt: c.began.Add(30 * 24 * time.Hour),
	}, nil
}

func (c crowd) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	s, _ := c.Load(ctx, key)
	_, err := fn(ctx, s)
	return err
}

// each sends a request for each of the keys from first to before last.
func each(t *testing.T, tr *walletauth.Transport, first, last int, path string) {
	t.Helper()
	for i := first; i < last; i++ {
		if i%100 == 0 {
			synctest.Wait() // the more goroutines at once, the more stays allocated for them
		}
		req, err := http.NewRequestWithContext(walletauth.WithKey(t.Context(), fmt.Sprint(i)), http.MethodGet, "https://walletkit.test"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := tr.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	}
	synctest.Wait()
}

// What failed once is of no consequence a day later.
func TestKeysThatFailedOnce(t *testing.T) {
	answer := func(err error) walletauth.Refresher {
		return refreshFunc(func(context.Context, *walletauth.Session) (*walletauth.Session, error) { return nil, err })
	}
	for name, c := range map[string]struct {
		refresher walletauth.Refresher
		status    int           // of all requests
		age       time.Duration // of the sessions
		keys      int
	}{
		"to refresh":                   {answer(&walletauth.RefreshError{StatusCode: 404}), 200, 5 * time.Minute, 30_000},
		"to refresh, with Retry-After": {answer(&walletauth.RefreshError{StatusCode: 404, RetryAfter: time.Hour}), 200, 5 * time.Minute, 5_000},
		"to refresh ahead of time":     {answer(&walletauth.RefreshError{StatusCode: 404}), 200, late, 5_000},
		"by a 401 that was not mended": {answer(&walletauth.RefreshError{StatusCode: 404}), 401, time.Minute, 5_000},
		"by an endpoint that refuses":  {&issuerOfAll{}, 401, time.Minute, 5_000},
	} {
		inBubble(t, name+" use no memory a day later", func(t *testing.T) {
			var warm atomic.Bool
			tr := &walletauth.Transport{Store: crowd{time.Now()}, BaseURL: "https://walletkit.test", Refresher: c.refresher, Base: roundTripFunc(func(*http.Request) (*http.Response, error) {
				if !warm.Load() {
					return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
				}
				return &http.Response{StatusCode: c.status, Body: http.NoBody}, nil
			})}
			keys := many(c.keys)
			each(t, tr, keys, keys+6_000, "/") // fills what is remembered within bounds
			warm.Store(true)
			before := heapNow()
			time.Sleep(c.age)
			each(t, tr, 0, keys, "/")
			for range 2 {
				time.Sleep(24 * time.Hour)
				each(t, tr, keys, keys+100, "/") // who comes later clears up
			}
			if grown := heapNow() - before; grown > max(int64(16*keys), 256<<10) {
				t.Errorf("the heap has grown by %d bytes, %d for each key", grown, grown/int64(keys))
			}
			runtime.KeepAlive(tr)
			if err := tr.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// issuerOfAll gives every user a new token.
type issuerOfAll struct{}

func (*issuerOfAll) Refresh(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	next := *s
	next.AccessToken += "'"
	next.AccessTokenExpiresAt = time.Now().Add(5 * time.Minute)
	return &next, nil
}

func TestKeysThatWereUsed(t *testing.T) {
	inBubble(t, "leave only a bounded memory", func(t *testing.T) {
		first, all := many(50_000), many(200_000)
		tr := &walletauth.Transport{Store: crowd{time.Now()}, BaseURL: "https://walletkit.test", Base: roundTripFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		})}
		each(t, tr, 0, first, "/")
		before := heapNow()
		each(t, tr, first, all, "/")
		if grown := heapNow() - before; grown > 4<<20 {
			t.Errorf("%d more keys have taken %d bytes", all-first, grown)
		}
		runtime.KeepAlive(tr)
	})
}
