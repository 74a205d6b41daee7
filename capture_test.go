package walletauth_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// newCapture is a wire that captures logins, with an empty store.
func newCapture(t *testing.T) *wire {
	w := newWire(t, walletauthtest.Config{})
	if err := walletauth.Delete(t.Context(), w.store, ""); err != nil {
		t.Fatal(err)
	}
	w.transport.CaptureLogin, w.transport.ProjectID = true, "project"
	return w
}

// post sends a JSON body to a path and returns the answer with its text.
func (w *wire) post(t *testing.T, path, body string) (*http.Response, string) {
	t.Helper()
	req := w.newRequest(t, "POST", path, strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	resp := w.mustDo(t, req)
	return resp, drain(t, resp)
}

func TestLoginIsStoredBeforeTheCallerSeesIt(t *testing.T) {
	for name, login := range map[string]func(t *testing.T, w *wire) (*http.Response, string){
		"anonymously": func(t *testing.T, w *wire) (*http.Response, string) {
			return w.post(t, "/users/login-anonymously", "{}")
		},
		"by e-mail": func(t *testing.T, w *wire) (*http.Response, string) {
			_, text := w.post(t, "/users/login-with-email", `{"email":"a@b.example"}`)
			var began struct {
				UserID string `json:"user_id"`
			}
			if err := json.Unmarshal([]byte(text), &began); err != nil {
				t.Fatal(err)
			}
			return w.post(t, "/users/verify-login", fmt.Sprintf(`{"user_id":%q,"verification_code":%q}`, began.UserID, walletauthtest.VerificationCode))
		},
		"by a refresh of the caller's own": func(t *testing.T, w *wire) (*http.Response, string) {
			return w.post(t, "/users/refresh-token", fmt.Sprintf(`{"session_id":%q,"refresh_token":%q}`, w.session.ID, w.session.RefreshToken))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCapture(t)
			resp, text := login(t, w)
			stored := w.stored(t, "")
			if resp.StatusCode != 200 || stored == nil {
				t.Fatalf("status %d, stored %v", resp.StatusCode, stored)
			}
			seen, err := walletauth.JSONCodec{}.Decode("", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(seen, stored); diff != "" {
				t.Errorf("stored (-what the caller saw +stored):\n%s", diff)
			}
			if resp.ContentLength >= 0 && resp.ContentLength != int64(len(text)) {
				t.Errorf("length %d for a body of %d", resp.ContentLength, len(text))
			}
			w.wantStatus(t, "GET", "/wallets", 200)
		})
	}
}

func TestLoginIsStoredUnderTheRequestsKey(t *testing.T) {
	w := newCapture(t)
	req := w.newRequest(t, "POST", "/users/login-anonymously", nil)
	drain(t, w.mustDo(t, req.WithContext(walletauth.WithKey(t.Context(), "b"))))
	if w.stored(t, "b") == nil || w.stored(t, "") != nil {
		t.Error("the session is not under the key, or also under another")
	}
}

func TestLoginWithTheCallersOwnAuthorizationIsStored(t *testing.T) {
	w := newCapture(t)
	req := w.newRequest(t, "POST", "/users/login-anonymously", nil)
	req.Header.Set("Authorization", "Bearer stale")
	drain(t, w.mustDo(t, req))
	if w.stored(t, "") == nil {
		t.Error("nothing is stored")
	}
}

func TestLoginReplacesTheSessionOfAnother(t *testing.T) {
	w := newCapture(t)
	w.login(t, "", "user-1")
	w.post(t, "/users/login-anonymously", "{}")
	if s := w.stored(t, ""); s == nil || s.UserID == "user-1" {
		t.Errorf("stored %v", s)
	}
}

func TestLoginIsNotStoredUnlessAskedFor(t *testing.T) {
	w := newCapture(t)
	w.transport.CaptureLogin = false
	w.post(t, "/users/login-anonymously", "{}")
	if s := w.stored(t, ""); s != nil {
		t.Errorf("stored %v", s)
	}
	session := w.login(t, "", "user-1")
	w.wantStatus(t, "POST", "/users/logout", 204)
	if w.stored(t, "") == nil {
		t.Errorf("the logout of %s was captured", session.UserID)
	}
	again := w.login(t, "", "user-1")
	req := w.newRequest(t, "POST", "/users/logout", nil)
	ownToken(req, again)
	if drain(t, w.mustDo(t, req)); w.stored(t, "") == nil {
		t.Errorf("the logout of %s with the caller's own token was captured", again.UserID)
	}
}

// ownToken makes req one whose caller brings the token of s.
func ownToken(req *http.Request, s *walletauth.Session) {
	req.Header.Set("Authorization", "Bearer "+s.AccessToken)
	req.Header.Set("X-WalletKit-Token-Source", "walletkit")
}

func TestAnswersWithoutACompleteSessionPassUncaptured(t *testing.T) {
	w := newCapture(t)
	whole := w.Login("user-2")
	half := *whole
	half.RefreshToken = ""
	padded := *whole
	padded.ID = strings.Repeat("x", 1<<20)
	text := func(s *walletauth.Session) string { data, _ := json.Marshal(s); return string(data) }
	for name, fault := range map[string]walletauthtest.Fault{
		"an incomplete session":      {Body: text(&half)},
		"no session":                 {Body: `{"user_id":"a"}`},
		"no JSON":                    {Body: "<html>welcome</html>"},
		"no body":                    {Status: 204},
		"a refusal":                  {Status: 400, Body: text(whole)},
		"a redirect":                 {Status: 304, Header: http.Header{"Etag": {"x"}}},
		"more than 1 MiB":            {Body: text(&padded)},
		"a session, and 1 MiB more":  {Body: text(whole) + strings.Repeat(" ", 1<<20)},
		"gzip of more than 1 MiB":    {Body: gzipped(text(whole) + strings.Repeat(" ", 1<<20)), Header: http.Header{"Content-Encoding": {"gzip"}}},
		"gzip that is none":          {Body: text(whole), Header: http.Header{"Content-Encoding": {"gzip"}}},
		"gzip that breaks off":       {Body: gzipped(text(whole))[:40], Header: http.Header{"Content-Encoding": {"gzip"}}},
		"an encoding nobody unpacks": {Body: "\x0b\x02\x80", Header: http.Header{"Content-Encoding": {"br"}}},
	} {
		t.Run(name, func(t *testing.T) {
			w.Fail(walletauthtest.LoginAnonymously, 1, fault)
			resp, body := w.post(t, "/users/login-anonymously", "{}")
			if body != fault.Body || fault.Status != 0 && resp.StatusCode != fault.Status {
				t.Errorf("status %d, %d bytes, want the answer as it came", resp.StatusCode, len(body))
			}
			if s := w.stored(t, ""); s != nil {
				t.Errorf("stored %v", s)
			}
		})
	}
}

func gzipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.String()
}

func TestCompressedLoginIsStoredAndPassesCompressed(t *testing.T) {
	for _, coding := range []string{"gzip", "GZIP"} { // in any case: RFC 9110, section 8.4.1
		w := newCapture(t)
		text, _ := json.Marshal(w.Login("user-2"))
		body := gzipped(string(text))
		w.Fail(walletauthtest.LoginAnonymously, 1, walletauthtest.Fault{Body: body, Header: http.Header{"Content-Encoding": {coding}}})
		resp, got := w.post(t, "/users/login-anonymously", "{}")
		if got != body || resp.Header.Get("Content-Encoding") != coding {
			t.Errorf("%s: the answer was changed", coding)
		}
		if s := w.stored(t, ""); s == nil || s.UserID != "user-2" {
			t.Errorf("%s: stored %v", coding, s)
		}
	}
}

func TestCompressedLoginIsUnpackedTo1MiBAtMost(t *testing.T) {
	w := newCapture(t)
	text, _ := json.Marshal(w.Login("user-2"))
	bomb := gzipped(strings.Repeat(" ", 2<<20) + string(text))
	w.Fail(walletauthtest.LoginAnonymously, 1, walletauthtest.Fault{Body: bomb, Header: http.Header{"Content-Encoding": {"gzip"}}})
	if _, got := w.post(t, "/users/login-anonymously", "{}"); got != bomb {
		t.Error("the answer was changed")
	}
	if s := w.stored(t, ""); s != nil {
		t.Errorf("stored %v", s)
	}
}

func TestLoginsAreStoredOverSockets(t *testing.T) {
	overSockets(t, func(t *testing.T, w *wire) {
		w.transport = &walletauth.Transport{Store: w.store, ProjectID: "project", BaseURL: w.URL, Base: w.transport.Base, CaptureLogin: true}
		w.client.Transport = w.transport
		_, text := w.post(t, "/users/login-anonymously", "{}")
		if s := w.stored(t, ""); s == nil || !strings.Contains(text, s.AccessToken) {
			t.Errorf("stored %v", s)
		}
		w.wantStatus(t, "POST", "/users/logout", 204)
		if s := w.stored(t, ""); s != nil {
			t.Errorf("after the logout: %v", s)
		}
	})
}

// failing gives w a store whose saves fail, and a record of the events.
func (w *wire) failing(t *testing.T, s *walletauth.Session) (*failingStore, func() []walletauth.Event) {
	t.Helper()
	store := &failingStore{}
	if s != nil {
		if err := walletauth.Save(t.Context(), store, "", s); err != nil {
			t.Fatal(err)
		}
	}
	store.setFail(true)
	w.transport.Store = store
	var mu sync.Mutex
	var events []walletauth.Event
	w.transport.OnEvent = func(_ context.Context, e walletauth.Event) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, e)
	}
	return store, func() []walletauth.Event {
		mu.Lock()
		defer mu.Unlock()
		return append([]walletauth.Event(nil), events...)
	}
}

func TestLoginThatCannotBeStoredIsUsedAndStoredLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		store, events := w.failing(t, nil)
		resp, text := w.post(t, "/users/login-anonymously", "{}")
		if resp.StatusCode != 200 || !strings.Contains(text, "access_token") {
			t.Errorf("status %d, body %q", resp.StatusCode, text)
		}
		w.wantStatus(t, "GET", "/wallets", 200)
		store.setFail(false)
		time.Sleep(time.Minute)
		s, err := store.Load(t.Context(), "")
		if err != nil || !strings.Contains(text, s.AccessToken) {
			t.Fatalf("stored %v, %v", s, err)
		}
		if diff := cmp.Diff([]walletauth.EventType{walletauth.SaveFailed, walletauth.SavedLater}, typesOf(events())); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		wantNoToken(t, "an event", fmt.Sprintf("%+v", events()), s)
	})
}

func TestLoginThatCouldNotBeStoredGivesWayToALaterOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		store, _ := w.failing(t, nil)
		w.post(t, "/users/login-anonymously", "{}")
		store.setFail(false)
		later := w.Login("user-2")
		if err := walletauth.Save(t.Context(), store, "", later); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if s, err := store.Load(t.Context(), ""); err != nil || s.UserID != "user-2" {
			t.Errorf("stored %v, %v, want the later login", s, err)
		}
		if s, err := w.transport.Session(t.Context()); err != nil || s.UserID != "user-2" {
			t.Errorf("in use: %v, %v, want the later login", s, err)
		}
	})
}

func TestLoginThatIsStoredSettlesTheChangeThatCouldNotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		store, _ := w.failing(t, w.Login("user-1"))
		w.wantStatus(t, "POST", "/users/logout", 204)
		store.setFail(false)
		before := store.updates
		w.post(t, "/users/login-anonymously", "{}")
		time.Sleep(time.Minute)
		if n := store.updates - before; n != 1 {
			t.Errorf("%d updates, want the login's alone", n)
		}
	})
}

func TestShutdownStoresALoginThatCouldNotBeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		store, _ := w.failing(t, nil)
		w.post(t, "/users/login-anonymously", "{}")
		go func() { time.Sleep(time.Second); store.setFail(false) }()
		if err := w.transport.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := store.Load(t.Context(), ""); err != nil {
			t.Error(err)
		}
	})
}

func TestLogoutDeletesTheSession(t *testing.T) {
	for name, own := range map[string]string{
		"": "", " with the caller's own token": "Authorization",
		" with the caller's own token in lower case": "authorization",
	} {
		t.Run("logout"+name, func(t *testing.T) {
			w := newCapture(t)
			s := w.login(t, "", "user-1")
			req := w.newRequest(t, "POST", "/users/logout", nil)
			if own != "" {
				req.Header[own] = []string{"Bearer " + s.AccessToken}
				req.Header.Set("X-WalletKit-Token-Source", "walletkit")
			}
			resp := w.mustDo(t, req)
			if drain(t, resp); resp.StatusCode != 204 || w.stored(t, "") != nil {
				t.Errorf("status %d, stored %v", resp.StatusCode, w.stored(t, ""))
			}
			if _, err := w.client.Do(w.newRequest(t, "GET", "/wallets", nil)); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("error %v, want ErrNoSession", err)
			}
		})
	}
}

func TestLogoutThatIsSentAgainDeletesTheRefreshedSession(t *testing.T) {
	w := newCapture(t)
	w.login(t, "", "user-1")
	w.RevokeAccess("user-1")
	w.wantStatus(t, "POST", "/users/logout", 204)
	w.wantRefreshes(t, 1)
	if s := w.stored(t, ""); s != nil {
		t.Errorf("stored %v", s)
	}
}

func TestLogoutThatFailsDeletesNothing(t *testing.T) {
	for _, status := range []int{400, 401, 500, 302} {
		w := newCapture(t)
		w.login(t, "", "user-1")
		w.Fail(walletauthtest.Logout, -1, walletauthtest.Fault{Status: status})
		w.wantStatus(t, "POST", "/users/logout", status)
		if w.stored(t, "") == nil {
			t.Errorf("status %d: the session was deleted", status)
		}
	}
}

func TestWhatIsNoLogoutDeletesNothing(t *testing.T) {
	for _, endpoint := range []string{
		"GET /users/logout", "POST /users/logout/all", "POST /wallets", "POST /users/passkey/finish-registration",
	} {
		w := newCapture(t)
		s := w.login(t, "", "user-1")
		method, path, _ := strings.Cut(endpoint, " ")
		base := w.transport.Base
		w.transport.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
			if req.Method == method && req.URL.Path == path {
				return reply(req, 204, ""), nil
			}
			return base.RoundTrip(req)
		})
		w.wantStatus(t, method, path, 204)
		own := w.newRequest(t, method, path, nil)
		ownToken(own, s)
		if drain(t, w.mustDo(t, own)); w.stored(t, "") == nil {
			t.Errorf("%s: the session was deleted", endpoint)
		}
	}
}

func TestLogoutWithoutAnAnswerDeletesNothing(t *testing.T) {
	w := newCapture(t)
	s := w.login(t, "", "user-1")
	w.Fail(walletauthtest.Logout, -1, walletauthtest.Fault{Drop: true})
	for _, own := range []bool{false, true} {
		req := w.newRequest(t, "POST", "/users/logout", nil)
		if own {
			ownToken(req, s)
		}
		if _, err := w.client.Do(req); err == nil || w.stored(t, "") == nil {
			t.Errorf("error %v, stored %v", err, w.stored(t, ""))
		}
	}
}

func TestLogoutWithAnotherSessionsTokenDeletesNothing(t *testing.T) {
	w := newCapture(t)
	w.login(t, "", "user-1")
	req := w.newRequest(t, "POST", "/users/logout", nil)
	ownToken(req, w.Login("user-2"))
	resp := w.mustDo(t, req)
	if drain(t, resp); resp.StatusCode != 204 || w.stored(t, "") == nil {
		t.Errorf("status %d, stored %v", resp.StatusCode, w.stored(t, ""))
	}
}

func TestLogoutLeavesALoginThatWasStoredMeanwhile(t *testing.T) {
	w := newCapture(t)
	w.login(t, "", "user-1")
	w.Fail(walletauthtest.Logout, 1, walletauthtest.Fault{After: true, Do: func(*http.Request) { w.login(t, "", "user-2") }})
	w.wantStatus(t, "POST", "/users/logout", 204)
	if s := w.stored(t, ""); s == nil || s.UserID != "user-2" {
		t.Errorf("stored %v, want the newer login", s)
	}
}

func TestLogoutEndsTheLoginItWasSentWith(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *walletauth.Session)
		gone   bool
	}{
		"refreshed meanwhile":                       {func(*walletauth.Session) {}, true},
		"refreshed meanwhile to a new id":           {func(s *walletauth.Session) { s.ID = "new id" }, true},
		"not a later login of the same user":        {func(s *walletauth.Session) { s.ID, s.CreatedAt = "new id", s.CreatedAt.Add(time.Second) }, false},
		"not a login of another at the same moment": {func(s *walletauth.Session) { s.ID, s.UserID = "new id", "user-2" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCapture(t)
			now := *w.login(t, "", "user-1")
			now.AccessToken, now.RefreshToken = "new access", "new refresh"
			c.change(&now)
			w.Fail(walletauthtest.Logout, 1, walletauthtest.Fault{After: true, Do: func(*http.Request) {
				if err := walletauth.Save(t.Context(), w.store, "", &now); err != nil {
					t.Error(err)
				}
			}})
			w.wantStatus(t, "POST", "/users/logout", 204)
			if s := w.stored(t, ""); (s == nil) != c.gone {
				t.Errorf("stored %v", s)
			}
		})
	}
}

func TestLogoutThatCannotBeStoredCountsAndIsStoredLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		s := w.Login("user-1")
		store, events := w.failing(t, s)
		w.wantStatus(t, "POST", "/users/logout", 204)
		if _, err := w.transport.Session(t.Context()); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("error %v, want ErrNoSession", err)
		}
		store.setFail(false)
		time.Sleep(time.Minute)
		if s, err := store.Load(t.Context(), ""); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("stored %v, %v", s, err)
		}
		if diff := cmp.Diff([]walletauth.EventType{walletauth.SaveFailed, walletauth.SavedLater}, typesOf(events())); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		wantNoToken(t, "an event", fmt.Sprintf("%+v", events()), s)
	})
}

func TestLoginAfterALogoutThatCouldNotBeStoredStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		store, _ := w.failing(t, w.Login("user-1"))
		w.wantStatus(t, "POST", "/users/logout", 204)
		store.setFail(false)
		if err := walletauth.Save(t.Context(), store, "", w.Login("user-2")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if s, err := store.Load(t.Context(), ""); err != nil || s.UserID != "user-2" {
			t.Errorf("stored %v, %v, want the newer login", s, err)
		}
	})
}

func TestShutdownsErrorAboutALogoutHoldsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		s := w.Login("user-1")
		w.failing(t, s)
		w.wantStatus(t, "POST", "/users/logout", 204)
		err := w.transport.Shutdown(t.Context())
		wantErrorWords(t, "Shutdown", err, []string{"could not be stored", "cannot replace"})
		wantNoToken(t, "the error", fmt.Sprintf("%v %#v", err, err), s)
	})
}

// slowStore takes a second for each change.
type slowStore struct{ walletauth.MemoryStore }

func (s *slowStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	time.Sleep(time.Second)
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.MemoryStore.Update(ctx, key, fn)
}

func TestCallerThatLeavesWhileItsLoginIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		store := &slowStore{}
		w.transport.Store = store
		began := time.Now()
		req := w.newRequest(t, "POST", "/users/login-anonymously", nil)
		resp, err := w.transport.RoundTrip(req.WithContext(timeout(t, 100*time.Millisecond)))
		if took := time.Since(began); resp != nil || !errors.Is(err, context.DeadlineExceeded) || took != 100*time.Millisecond {
			t.Errorf("response %v, error %v after %s", resp, err, took)
		}
		time.Sleep(2 * time.Second)
		if _, err := store.Load(t.Context(), ""); err != nil {
			t.Errorf("the login was lost: %v", err)
		}
	})
}

func TestShutdownWaitsForALoginThatIsBeingStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		store := &slowStore{}
		w.transport.Store = store
		req := w.newRequest(t, "POST", "/users/login-anonymously", nil)
		_, _ = w.transport.RoundTrip(req.WithContext(timeout(t, 100*time.Millisecond)))
		if err := w.transport.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := store.Load(t.Context(), ""); err != nil {
			t.Errorf("the login was lost: %v", err)
		}
	})
}

func TestLoginIsStoredAfterTheRefreshThatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		w.login(t, "", "user-1")
		w.RevokeAccess("user-1")
		w.FailRefresh(1, walletauthtest.Fault{After: true, Delay: 5 * time.Second})
		refreshed := make(chan int)
		go func() { refreshed <- w.status(t, "GET", "/wallets") }()
		synctest.Wait()
		w.post(t, "/users/login-anonymously", "{}")
		<-refreshed
		if s := w.stored(t, ""); s == nil || s.UserID == "user-1" {
			t.Errorf("stored %v, want the login", s)
		}
	})
}

func TestStoreThatPanicsDoesNotCostTheLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCapture(t)
		w.transport.Store = &walletauth.FuncStore{
			LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return nil, walletauth.ErrNoSession },
			SaveFunc: func(context.Context, string, *walletauth.Session) error { panic("bug") },
		}
		if resp, text := w.post(t, "/users/login-anonymously", "{}"); resp.StatusCode != 200 || text == "" {
			t.Errorf("status %d, body %q", resp.StatusCode, text)
		}
		w.wantStatus(t, "GET", "/wallets", 200) // from memory
		_ = w.transport.Shutdown(t.Context())
	})
}

// Whatever a login is answered, the caller gets it as it came, and what is
// stored is the session that it carries, whole, or what was stored before.
func FuzzLoginCapture(f *testing.F) {
	data := encoded(f, newSession())
	f.Add(200, "", data, byte(7), byte(0), false, false)
	f.Add(201, "", data, byte(1), byte(200), false, true)
	f.Add(200, "", data, byte(0), byte(0), true, false)
	f.Add(200, "", append(data, "    trailing"...), byte(0), byte(130), false, false)
	f.Add(200, "gzip", []byte(gzipped(string(data))), byte(9), byte(0), false, true)
	f.Add(200, "GZIP", []byte(gzipped(string(data))), byte(9), byte(0), false, false)
	f.Add(200, "", data, byte(9), byte(255), false, false)
	f.Add(200, "", data, byte(9), byte(254), false, false)
	f.Add(200, "", data, byte(9), byte(192), false, false)
	f.Add(200, "gzip", []byte(gzipped(string(data)))[:60], byte(9), byte(0), true, false)
	f.Add(400, "", []byte(`{"code":null,"error":"no"}`), byte(3), byte(0), false, false)
	f.Add(204, "br", []byte(nil), byte(0), byte(0), false, false)
	f.Fuzz(func(t *testing.T, status int, encoding string, body []byte, piece, padding byte, breaksOff, saveFails bool) {
		synctest.Test(t, func(t *testing.T) {
			a := answer{status: status, header: http.Header{"Content-Encoding": {encoding}}, piece: int(piece), breaksOff: breaksOff}
			a.body = padded(body, padding)
			checkCapture(t, a, saveFails)
		})
	})
}

// padded brings a body near the size above which it is not looked at, by space
// before it or behind, which is none of its meaning. Most bodies stay small, so
// that many are tried.
func padded(body []byte, padding byte) []byte {
	if padding < 128 {
		return body
	}
	space := bytes.Repeat([]byte{' '}, max(0, tooLarge-len(body)+int(padding)-192))
	if padding%2 == 0 {
		return append(space, body...)
	}
	return append(bytes.Clone(body), space...)
}

const tooLarge = 1 << 20

func checkCapture(t *testing.T, a answer, saveFails bool) {
	before := secretSession()
	store := &failingStore{}
	if err := walletauth.Save(t.Context(), store, "", &before); err != nil {
		t.Fatal(err)
	}
	store.setFail(saveFails)
	seen, said := &witness{}, &strings.Builder{}
	tr := &walletauth.Transport{
		Store: store, ProjectID: "project-1", CaptureLogin: true,
		Base: roundTripFunc(func(*http.Request) (*http.Response, error) { return a.response(), nil }),
		OnEvent: func(_ context.Context, e walletauth.Event) {
			seen.print(e)
			seen.print(e.Err)
			_, _ = fmt.Fprintln(said, e.Err)
		},
	}
	req := mustRequest(t, http.MethodPost, "/users/verify-login")
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("the caller gets %v instead of the answer", err)
	}
	a.check(t, resp)
	store.setFail(false)
	if err := tr.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkCaptured(t, store, a, &before)
	wantNoToken(t, "an event", seen.String(), &before)
	wantNoToken(t, "an error", said.String(), a.session()) // an event's own words may be a token in there
}

func checkCaptured(t *testing.T, store walletauth.TokenStore, a answer, before *walletauth.Session) {
	stored, err := store.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	want := before
	if s := a.session(); s != nil {
		want = s
	}
	if diff := cmp.Diff(want, stored); diff != "" {
		t.Errorf("stored (-want +got):\n%s", diff)
	}
	if _, err := (walletauth.JSONCodec{}).Encode("", stored); err != nil {
		t.Errorf("what is stored is no session: %v", err)
	}
}
