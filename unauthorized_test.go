package walletauth_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
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

func TestRequestThatGetsA401IsSentAgainWithARefreshedToken(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	replayed := w.countEvents(walletauth.RequestReplayed)
	w.RevokeAccess("user-1")
	w.wantStatus(t, "GET", "/wallets", 200)
	w.wantRefreshes(t, 1)
	if n := w.Requests(walletauthtest.ListWallets); n != 2 {
		t.Errorf("the request was sent %d times, want twice", n)
	}
	if n := replayed.Load(); n != 1 {
		t.Errorf("%d events of a replay, want 1", n)
	}
	if diff := cmp.Diff(w.Sessions("user-1")[0], w.stored(t, "")); diff != "" {
		t.Errorf("the store (-issued +stored):\n%s", diff)
	}
}

func TestRequestIsSentAgainOnceAtMost(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	replayed := w.countEvents(walletauth.RequestReplayed)
	w.Fail(walletauthtest.ListWallets, -1, walletauthtest.Fault{Status: 401, Body: "no"})
	resp := w.mustDo(t, w.newRequest(t, "GET", "/wallets", nil))
	if body := drain(t, resp); resp.StatusCode != 401 || body != "no" {
		t.Errorf("status %d, body %q", resp.StatusCode, body)
	}
	if n := w.Requests(walletauthtest.ListWallets); n != 2 {
		t.Errorf("the request was sent %d times, want twice", n)
	}
	w.wantRefreshes(t, 1)
	if n := replayed.Load(); n != 0 {
		t.Errorf("%d events of a mended 401, want none", n)
	}
}

// gate lets requests wait at the server until they are let go one by one.
type gate struct {
	arrived chan struct{}
	pass    chan struct{}
}

func newGate() *gate { return &gate{make(chan struct{}), make(chan struct{})} }

func (g *gate) hold(*http.Request) {
	g.arrived <- struct{}{}
	<-g.pass
}

func Test401ThatArrivesAfterAnothersRefreshIsMendedWithoutOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		adopted := w.countEvents(walletauth.SessionAdopted)
		slow := newGate()
		w.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Do: slow.hold})
		late := make(chan int)
		go func() { late <- w.status(t, "GET", "/wallets") }()
		<-slow.arrived
		w.RevokeAccess("user-1")
		w.wantStatus(t, "GET", "/wallets", 200)
		w.wantRefreshes(t, 1)
		slow.pass <- struct{}{}
		if got := <-late; got != 200 {
			t.Errorf("status %d", got)
		}
		w.wantRefreshes(t, 1)
		if n := adopted.Load(); n != 0 {
			t.Error("it took the store's exclusion to see that there is nothing to do")
		}
	})
}

func TestTokenOfAnotherProcessMendsA401WithoutARefresh(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	slow := newGate()
	w.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Do: slow.hold})
	late := make(chan int)
	go func() { late <- w.status(t, "GET", "/wallets") }()
	<-slow.arrived
	w.RevokeAccess("user-1")
	w.login(t, "", "user-1") // into the shared store
	slow.pass <- struct{}{}
	if got := <-late; got != 200 {
		t.Errorf("status %d", got)
	}
	w.wantRefreshes(t, 0)
}

func Test401sSpreadOverTimeCauseOneRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		var delay atomic.Int64
		w.Fail(walletauthtest.ListWallets, 100, walletauthtest.Fault{Do: func(*http.Request) {
			time.Sleep(time.Duration(delay.Add(1)) * 50 * time.Millisecond) // answered over 5 s
		}})
		w.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { w.wantStatus(t, "GET", "/wallets", 200) })
		}
		synctest.Wait()
		w.RevokeAccess("user-1")
		all.Wait()
		w.wantRefreshes(t, 1)
		if n := w.Requests(walletauthtest.ListWallets); n != 200 {
			t.Errorf("%d requests, want each of the 100 twice", n)
		}
	})
}

func TestForbiddenRefreshesNothing(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	w.Fail(walletauthtest.ListWallets, 3, walletauthtest.Fault{Status: 403, Body: `{"code":null,"error":"no"}`})
	for range 3 {
		w.wantStatus(t, "GET", "/wallets", 403)
	}
	w.wantRefreshes(t, 0)
	if n := w.Requests(walletauthtest.ListWallets); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestOwnHeadersOfTheCallerWin(t *testing.T) {
	for name, own := range map[string]http.Header{
		"project":                       {"X-Walletkit-Project-Id": {"own"}},
		"project as documented":         {"X-WalletKit-Project-ID": {"own"}},
		"token source":                  {"X-Walletkit-Token-Source": {"own"}},
		"token source in lower case":    {"x-walletkit-token-source": {"own"}},
		"authorization":                 {"Authorization": {"own"}},
		"authorization in lower case":   {"authorization": {"own"}},
		"authorization with two values": {"AUTHORIZATION": {"own", "more"}},
		"everything": {
			"Authorization": {"own"}, "X-Walletkit-Project-Id": {"own"}, "X-Walletkit-Token-Source": {"own"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{TB: silent{t}})
			sent := w.sawHeader()
			req := w.newRequest(t, "GET", "/wallets", nil)
			want := http.Header{"X-Walletkit-Project-Id": {"project"}}
			if !strings.HasPrefix(name, "authorization") && name != "everything" {
				want.Set("X-WalletKit-Token-Source", "walletkit")
				want.Set("Authorization", "Bearer "+w.session.AccessToken)
			}
			for field, values := range own {
				req.Header[field] = values
				want[http.CanonicalHeaderKey(field)] = values
			}
			drain(t, w.mustDo(t, req))
			if diff := cmp.Diff(want, sent()); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}

// silent is a test that the stand-in server's complaints do not fail: what it
// is sent is wrong on purpose.
type silent struct{ testing.TB }

func (silent) Errorf(string, ...any) {}

func TestOwnHeadersWithoutAValueCountAsNotSet(t *testing.T) {
	for _, values := range [][]string{nil, {}, {""}, {"", ""}} {
		t.Run(fmt.Sprintf("%q", values), func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			req := w.newRequest(t, "GET", "/wallets", nil)
			for _, name := range []string{"Authorization", "x-walletkit-project-id", "X-Walletkit-Token-Source"} {
				req.Header[name] = values
			}
			if resp := w.mustDo(t, req); resp.StatusCode != 200 {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
}

func TestOwnAuthorizationRefreshesNothing(t *testing.T) {
	for _, name := range []string{"Authorization", "authorization"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, walletauthtest.Config{AccessTokenTTL: -time.Minute}) // due for anybody else
				req := w.newRequest(t, "GET", "/wallets", nil)
				req.Header[name] = []string{"Bearer own"}
				req.Header.Set("X-WalletKit-Token-Source", "firebase")
				if resp := w.mustDo(t, req); resp.StatusCode != 401 {
					t.Errorf("status %d, want 401", resp.StatusCode)
				}
				synctest.Wait()
				if n := w.Stats().Requests; n != 1 {
					t.Errorf("%d requests, want 1", n)
				}
			})
		})
	}
}

func TestOwnAuthorizationNeedsNoSession(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	w.transport.Store, w.transport.ProjectID = &walletauth.MemoryStore{}, "project"
	req := w.newRequest(t, "GET", "/wallets", nil)
	req.Header.Set("Authorization", "Bearer "+w.session.AccessToken)
	req.Header.Set("X-WalletKit-Token-Source", "walletkit")
	if resp := w.mustDo(t, req); resp.StatusCode != 200 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestWithoutASessionTheCallerHearsToLogIn(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	req := w.newRequest(t, "GET", "/wallets", nil)
	_, err := w.client.Do(req.WithContext(walletauth.WithKey(t.Context(), "nobody")))
	if !errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("error %v, want ErrNoSession", err)
	}
	if n := w.Stats().Requests; n != 0 {
		t.Errorf("%d requests, want none", n)
	}
}

func TestStoredTokenThatCannotBeSentIsAnErrorThatDoesNotHoldIt(t *testing.T) {
	for name, spoil := range map[string]func(*walletauth.Session){
		"no access token":             func(s *walletauth.Session) { s.AccessToken = "" },
		"a line break in it":          func(s *walletauth.Session) { s.AccessToken += "\r\nX: y" },
		"no project":                  func(s *walletauth.Session) { s.ProjectID = "" },
		"a line break in the project": func(s *walletauth.Session) { s.ProjectID = "a\nb" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			s := *w.session
			spoil(&s)
			w.transport.Store = &walletauth.FuncStore{LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return &s, nil }}
			_, err := w.client.Do(w.newRequest(t, "GET", "/wallets", nil))
			wantErrorWords(t, "Do", err, []string{"walletauth: ", "header"})
			wantNoToken(t, "the error", fmt.Sprintf("%v %#v", err, err), w.session)
			if n := w.Stats().Requests; n != 0 {
				t.Errorf("%d requests, want none", n)
			}
		})
	}
}

func TestProjectOfTheTransportServesASessionWithout(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	s := *w.session
	s.ProjectID = ""
	w.transport.Store = &walletauth.FuncStore{LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return &s, nil }}
	w.transport.ProjectID = "project"
	w.wantStatus(t, "GET", "/wallets", 200)
}

func TestEndpointThatAlwaysRefusesDoesNotRotateTheSessionForEachRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{AccessTokenTTL: 24 * time.Hour})
		w.Fail(walletauthtest.GetWallet, -1, walletauthtest.Fault{Status: 401})
		for range 600 { // 10 minutes, and no request at the moment a pause ends
			w.wantStatus(t, "GET", "/wallets/get-by-id", 401)
			w.wantStatus(t, "GET", "/wallets", 200)
			time.Sleep(999 * time.Millisecond)
		}
		if n := w.Requests(walletauthtest.RefreshToken); n < 1 || n > 6 { // 3 in any 5 minutes
			t.Errorf("%d refreshes for 600 refused requests, want 1 to 6", n)
		}
		if n := w.Requests(walletauthtest.GetWallet); n > 606 {
			t.Errorf("%d requests to it, want at most one more per refresh", n)
		}
	})
}

func TestEndpointThatAlwaysRefusesManyAtOnceRotatesTheSessionOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.Fail(walletauthtest.GetWallet, -1, walletauthtest.Fault{Status: 401, Delay: time.Second})
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() { w.wantStatus(t, "GET", "/wallets/get-by-id", 401) })
		}
		all.Wait()
		w.wantRefreshes(t, 1)
	})
}

func TestEndpointThatAlwaysRefusesOverlappingRequestsDoesNotRotateForEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		w := newWire(t, walletauthtest.Config{})
		w.Fail(walletauthtest.GetWallet, -1, walletauthtest.Fault{Status: 401, Do: func(*http.Request) {
			if asked.Add(1)%2 == 0 {
				time.Sleep(time.Second)
			}
		}})
		var all sync.WaitGroup
		for range 80 { // 4 s
			all.Go(func() { w.wantStatus(t, "GET", "/wallets/get-by-id", 401) })
			time.Sleep(50 * time.Millisecond)
		}
		all.Wait()
		w.wantRefreshes(t, 1)
	})
}

func TestManyEndpointsThatRefuseRotateTheSessionThreeTimesInFiveMinutesAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.Handle("GET /refusing/{id}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
		for i := range 600 { // one minute
			w.wantStatus(t, "GET", fmt.Sprint("/refusing/", i), 401)
			time.Sleep(100 * time.Millisecond)
		}
		if n := w.Requests(walletauthtest.RefreshToken); n < 1 || n > 3 {
			t.Errorf("%d refreshes, want 1 to 3", n)
		}
	})
}

func TestRevokedTokenIsMendedAlthoughAnEndpointAlwaysRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{AccessTokenTTL: 24 * time.Hour})
		w.Fail(walletauthtest.GetWallet, -1, walletauthtest.Fault{Status: 401})
		for range 30 {
			w.wantStatus(t, "GET", "/wallets/get-by-id", 401)
			time.Sleep(time.Second)
		}
		w.RevokeAccess("user-1")
		for waited := time.Duration(0); w.status(t, "GET", "/wallets") != 200; waited += time.Second {
			if waited > 5*time.Second {
				t.Fatal("the token was not replaced within 5 s")
			}
			time.Sleep(time.Second)
		}
	})
}

func TestRefusedTokenOfOneUserDoesNotConcernAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.login(t, "b", "user-b")
		w.Fail(walletauthtest.GetWallet, 2, walletauthtest.Fault{Status: 401})
		w.wantStatus(t, "GET", "/wallets/get-by-id", 401) // from now on user-1's 401s are in doubt
		w.RevokeAccess("user-b")
		req := w.newRequest(t, "GET", "/wallets", nil)
		resp := w.mustDo(t, req.WithContext(walletauth.WithKey(t.Context(), "b")))
		if drain(t, resp); resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
}

func TestRequestIsNeverSentAgainAsAnotherUser(t *testing.T) {
	for name, then := range map[string]func(t *testing.T, w *wire){
		"another user logged in":                   func(t *testing.T, w *wire) { w.login(t, "", "user-2") },
		"another user logged in with an old token": func(t *testing.T, w *wire) { w.login(t, "", "user-2"); w.RevokeAccess("user-2") },
		"the user logged out":                      func(t *testing.T, w *wire) { _ = walletauth.Delete(t.Context(), w.store, "") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			slow := newGate()
			w.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Do: slow.hold})
			done := make(chan *http.Response)
			go func() {
				req := w.newRequest(t, "GET", "/wallets", nil)
				req.Header.Set(walletauthtest.UserHeader, "user-1")
				done <- w.mustDo(t, req)
			}()
			<-slow.arrived
			w.RevokeAccess("user-1")
			then(t, w)
			slow.pass <- struct{}{}
			if resp := <-done; resp.StatusCode != 401 || !strings.Contains(drain(t, resp), "invalid session token") {
				t.Errorf("status %d, want the 401 as it came", resp.StatusCode)
			}
			if n := w.User("user-2").Requests; n != 0 {
				t.Errorf("%d requests as user-2", n)
			}
		})
	}
}

func TestLoginOfAnotherUserDuringTheRefreshDoesNotReachTheSecondTry(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	var row atomic.Pointer[walletauth.Session] // of a program that writes past the store's exclusion
	row.Store(w.session)
	w.transport.Store = &walletauth.FuncStore{
		LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return row.Load(), nil },
		SaveFunc: func(_ context.Context, _ string, s *walletauth.Session) error { row.Store(s); return nil },
	}
	other := w.Login("user-2")
	w.FailRefresh(1, walletauthtest.Fault{Do: func(*http.Request) { row.Store(other) }})
	w.RevokeAccess("user-1")
	req := w.newRequest(t, "GET", "/wallets", nil)
	req.Header.Set(walletauthtest.UserHeader, "user-1")
	drain(t, w.mustDo(t, req))
	if n := w.User("user-2").Requests; n != 0 {
		t.Errorf("%d requests as user-2", n)
	}
	if row.Load() != other {
		t.Error("the login was overwritten")
	}
}

func TestCallerThatLeavesDuringTheRefreshGetsItsOwnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.FailRefresh(1, walletauthtest.Fault{Delay: 10 * time.Second})
		w.RevokeAccess("user-1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := w.transport.RoundTrip(w.newRequest(t, "GET", "/wallets", nil).WithContext(ctx))
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("error %v after %s, want the context's after 1 s", err, time.Since(began))
		}
		time.Sleep(10 * time.Second)
		w.wantStatus(t, "GET", "/wallets", 200)
		w.wantRefreshes(t, 1)
	})
}

func Test401IsReturnedWhenTheRefreshFails(t *testing.T) {
	for name, fail := range map[string]func(w *wire){
		"for now":              func(w *wire) { w.FailRefresh(-1, walletauthtest.Fault{Status: 503}) },
		"by a firewall":        func(w *wire) { w.FailRefresh(-1, walletauthtest.Fault{Status: 403, Body: "<html>no</html>"}) },
		"without a connection": func(w *wire) { w.FailRefresh(-1, walletauthtest.Fault{Drop: true}) },
		"by a redirect": func(w *wire) {
			w.FailRefresh(-1, walletauthtest.Fault{Status: 307, Header: http.Header{"Location": {"https://evil.example"}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWire(t, walletauthtest.Config{})
				w.RevokeAccess("user-1")
				fail(w)
				resp, err := w.client.Do(w.newRequest(t, "GET", "/wallets", nil))
				if err != nil {
					t.Fatal(err)
				}
				const want = `{"code":null,"error":"No valid API key provided or invalid session token"}` + "\n"
				if body := drain(t, resp); resp.StatusCode != 401 || body != want || resp.ContentLength != int64(len(want)) {
					t.Errorf("status %d, length %d, body %q", resp.StatusCode, resp.ContentLength, body)
				}
				if n := w.Requests(walletauthtest.ListWallets); n != 1 {
					t.Errorf("the request was sent %d times, want once", n)
				}
			})
		})
	}
}

func TestShutdownDuringTheRequestLeavesItIts401(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	slow := newGate()
	w.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Do: slow.hold})
	done := make(chan int)
	go func() { done <- w.status(t, "GET", "/wallets") }()
	<-slow.arrived
	w.RevokeAccess("user-1")
	if err := w.transport.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	slow.pass <- struct{}{}
	if got := <-done; got != 401 {
		t.Errorf("status %d, want 401", got)
	}
	w.wantRefreshes(t, 0)
}

func TestFirstHeaderIsNotTouchedForTheSecondTry(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	w.RevokeAccess("user-1")
	base := w.transport.Base
	var kept []http.Header
	w.transport.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
		if req.URL.Path == "/wallets" {
			kept = append(kept, req.Header) // as a transport that logs later
		}
		return base.RoundTrip(req)
	})
	w.wantStatus(t, "GET", "/wallets", 200)
	if len(kept) != 2 || kept[0].Get("Authorization") != "Bearer "+w.session.AccessToken || kept[1].Get("Authorization") == kept[0].Get("Authorization") {
		t.Errorf("%d headers, or the first was changed", len(kept))
	}
}

func TestErrorOfTheSecondTryIsReturned(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	w.RevokeAccess("user-1")
	w.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{}) // passes, to its 401
	w.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Drop: true})
	resp, err := w.transport.RoundTrip(w.newRequest(t, "GET", "/wallets", nil))
	if resp != nil || !errors.Is(err, io.EOF) {
		t.Errorf("response %v, error %v, want the broken connection", resp, err)
	}
}

func TestPanicOfOnEventDoesNotCostTheAnswer(t *testing.T) {
	w := newWire(t, walletauthtest.Config{})
	w.RevokeAccess("user-1")
	w.transport.OnEvent = func(_ context.Context, e walletauth.Event) {
		if e.Type == walletauth.RequestReplayed {
			panic("bug")
		}
	}
	w.wantStatus(t, "GET", "/wallets", 200)
}

// wantOver demands that a request fails because the session is over, at once
// and unsent.
func (w *wire) wantOver(t *testing.T, path string) {
	t.Helper()
	before, began := w.Stats().Requests, time.Now()
	resp, err := w.client.Do(w.newRequest(t, "GET", path, nil))
	if err == nil {
		drain(t, resp)
	}
	if !errors.Is(err, walletauth.ErrSessionExpired) {
		t.Errorf("%v, want ErrSessionExpired", err)
	}
	if sent, took := w.Stats().Requests-before, time.Since(began); sent != 0 || took != 0 {
		t.Errorf("%d requests were sent in %s, want that it fails at once and unsent", sent, took)
	}
}

func TestUnauthorized(t *testing.T) {
	for name, body := range map[string]func(*http.Request){
		"of a request without a body": func(req *http.Request) { req.Method = "GET" },
		"of one with GetBody":         func(req *http.Request) { setBody(req, "body"); req.GetBody = getBody("body") },
		"of one whose body is kept":   func(req *http.Request) { setBody(req, "body") },
		"of one that cannot be sent again": func(req *http.Request) {
			setBody(req, strings.Repeat("x", 64<<10+1))
		},
	} {
		inBubble(t, name+" that ends the session is the error, and so is every later request", func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			w.handleUpload()
			w.RevokeSessions("user-1")
			req := w.upload(t, nil)
			req.URL.Path = "/upload"
			body(req)
			if req.Method == "GET" {
				req.URL.Path = "/wallets"
			}
			resp, err := w.transport.RoundTrip(req)
			if resp != nil || !errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("response %v, error %v, want ErrSessionExpired", resp, err)
			}
			var refused *walletauth.RefreshError
			if !errors.As(err, &refused) || refused.StatusCode != 401 {
				t.Errorf("%v, want the RefreshError that says why", err)
			}
			wantNoToken(t, "the error", fmt.Sprintf("%v %#v", err, err), w.session)
			for range 3 {
				w.wantOver(t, "/wallets")
			}
			w.wantRefreshes(t, 1)
			w.login(t, "", "user-1")
			w.wantStatus(t, "GET", "/wallets", 200)
		})
		inBubble(t, name+" whose refresh fails for now is the 401 as it came", func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			w.handleUpload()
			w.RevokeAccess("user-1")
			w.FailRefresh(1, walletauthtest.Fault{Status: 404})
			req := w.upload(t, nil)
			body(req)
			if req.Method == "GET" {
				req.URL.Path = "/wallets"
			}
			resp, err := w.transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if text := drain(t, resp); resp.StatusCode != 401 || !strings.Contains(text, "invalid session token") {
				t.Errorf("status %d, body %q", resp.StatusCode, text)
			}
			time.Sleep(2 * time.Second)
			w.wantStatus(t, "GET", "/wallets", 200)
		})
	}
	inBubble(t, "for a hundred requests at once is one end for all", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.RevokeSessions("user-1")
		over := w.countEvents(walletauth.SessionOver)
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if _, err := w.client.Do(w.newRequest(t, "GET", "/wallets", nil)); !errors.Is(err, walletauth.ErrSessionExpired) {
					t.Errorf("%v, want ErrSessionExpired", err)
				}
			})
		}
		all.Wait()
		w.wantRefreshes(t, 1)
		if n := over.Load(); n != 1 {
			t.Errorf("%d events that it is over, want 1", n)
		}
	})
	inBubble(t, "that ends the session closes the response's body", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		base := w.transport.Base
		var closed atomic.Int32
		w.transport.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
			resp, err := base.RoundTrip(req)
			if err == nil && req.URL.Path == "/wallets" {
				resp.Body = &closeCounter{resp.Body, &closed}
			}
			return resp, err
		})
		w.RevokeSessions("user-1")
		_, _ = w.client.Do(w.newRequest(t, "GET", "/wallets", nil))
		synctest.Wait()
		if closed.Load() == 0 {
			t.Error("the body of the 401 was not closed")
		}
	})
	inBubble(t, "after an end that was learned ahead of time is the error", func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(-1, errorReply(401, "application/json", ours))
		k.at(4*time.Minute + 46*time.Second)
		k.works(0) // and learns behind it
		time.Sleep(time.Second)
		k.works(0) // its access token serves
		k.sent(1)
		k.srv.RevokeAccess("user")
		if _, err := k.get(t.Context()); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("%v, want ErrSessionExpired", err)
		}
		before := k.srv.Stats().Requests
		for range 3 {
			if err := k.fails(0); !errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("%v, want ErrSessionExpired", err)
			}
		}
		if n := k.srv.Stats().Requests - before; n != 0 {
			t.Errorf("%d requests were sent of a session that is over", n)
		}
		k.sent(1)
	})
	inBubble(t, "is mended by the session that another process saves in the moment after", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.RevokeAccess("user-1")
		fault := errorReply(401, "application/json", ours)
		saved := w.Login("user-1")
		row := &atomic.Pointer[walletauth.Session]{}
		row.Store(w.session)
		w.transport.Store = &walletauth.FuncStore{
			LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return row.Load(), nil },
			SaveFunc: func(_ context.Context, _ string, s *walletauth.Session) error { row.Store(s); return nil },
		}
		fault.Do = func(*http.Request) { time.AfterFunc(300*time.Millisecond, func() { row.Store(saved) }) }
		w.FailRefresh(1, fault)
		w.wantStatus(t, "GET", "/wallets", 200)
		w.wantRefreshes(t, 1)
	})
}

type closeCounter struct {
	io.ReadCloser
	n *atomic.Int32
}

func (c *closeCounter) Close() error { c.n.Add(1); return c.ReadCloser.Close() }

func setBody(req *http.Request, text string) {
	req.Body, req.GetBody, req.ContentLength = newCountedBody(text), nil, int64(len(text))
}

func getBody(text string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return newCountedBody(text), nil }
}

// refreshTimes notes when refreshes are sent, and says how many there were at
// most in any five minutes.
type refreshTimes struct {
	mu sync.Mutex
	at []time.Time
}

func (r *refreshTimes) note() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = append(r.at, time.Now())
}

func (r *refreshTimes) most() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, begin := range r.at {
		within := 0
		for _, at := range r.at[i:] {
			if at.Sub(begin) < 5*time.Minute {
				within++
			}
		}
		n = max(n, within)
	}
	return n
}

func (r *refreshTimes) want(t *testing.T, most int) {
	t.Helper()
	if n := r.most(); n > most {
		t.Errorf("%d refreshes within five minutes, want %d at most", n, most)
	}
	if len(r.at) == 0 {
		t.Error("no refresh was sent")
	}
}

// An endpoint that refuses every token must not cost a session its refreshes.
func TestEndpointThatRefuses(t *testing.T) {
	sameToken := func(s *walletauth.Session) *walletauth.Session { same := *s; return &same }
	sameAccess := func(s *walletauth.Session) *walletauth.Session {
		same := *s
		same.RefreshToken += "'"
		return &same
	}
	later := func(s *walletauth.Session) *walletauth.Session {
		same := *s
		same.AccessTokenExpiresAt = same.AccessTokenExpiresAt.Add(time.Second)
		return &same
	}
	another := func(s *walletauth.Session) *walletauth.Session {
		next := *s
		next.AccessToken += "'"
		next.RefreshToken += "'"
		return &next
	}
	for what, answer := range map[string]func(*walletauth.Session) *walletauth.Session{
		"a new token": another, "the same session": sameToken, "the same access token": sameAccess, "the same access token, later expiry": later,
	} {
		for where, path := range map[string]func(i int) string{
			"one path":      func(int) string { return "/refusing" },
			"two paths":     func(i int) string { return fmt.Sprint("/refusing/", i%2) },
			"hundred paths": func(i int) string { return fmt.Sprint("/refusing/", i%100) },
			"ever new ones": func(i int) string { return fmt.Sprint("/refusing/", i) },
		} {
			for how, pause := range map[string]time.Duration{"at once": 0, "over half an hour": 3 * time.Second} {
				inBubble(t, fmt.Sprintf("on %s, %s, refreshes 3 times in 5 minutes at most: %s", where, how, what), func(t *testing.T) {
					var times refreshTimes
					st := &walletauth.MemoryStore{}
					r := &issuer{ttl: 24 * time.Hour}
					k := &kept{t: t, Transport: quiet(st, refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
						times.note()
						return answer(s), nil
					}))}
					k.Base = roundTripFunc(func(*http.Request) (*http.Response, error) {
						return &http.Response{StatusCode: 401, Body: http.NoBody}, nil
					})
					if err := walletauth.Save(t.Context(), st, "", r.issue(time.Now(), 0)); err != nil {
						t.Fatal(err)
					}
					for i := range 600 {
						k.wants401(path(i))
						time.Sleep(pause)
					}
					times.want(t, 3)
				})
			}
		}
	}
	inBubble(t, "counts a refresh once, however many waited for it in vain", func(t *testing.T) {
		st := &walletauth.MemoryStore{}
		sent := 0
		k := &kept{t: t, Transport: quiet(st, refreshFunc(func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
			sent++
			time.Sleep(time.Second)
			return sameAccess(s), nil
		}))}
		k.Base = roundTripFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 401, Body: http.NoBody}, nil
		})
		if err := walletauth.Save(t.Context(), st, "", (&issuer{ttl: 24 * time.Hour}).issue(time.Now(), 0)); err != nil {
			t.Fatal(err)
		}
		for round := range 5 {
			var all sync.WaitGroup
			for i := range 10 {
				all.Go(func() { k.wants401(fmt.Sprint("/refusing/", round, "/", i)) })
			}
			all.Wait()
			if want := min(round+1, 3); sent != want {
				t.Errorf("%d refreshes after %d rounds of ten requests, want %d", sent, round+1, want)
			}
			time.Sleep(6 * time.Second)
		}
	})
	inBubble(t, "a hundred paths at the same time refreshes 3 times in 5 minutes at most", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{AccessTokenTTL: 24 * time.Hour})
		var times refreshTimes
		w.Handle("GET /refusing/{id}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
		w.FailRefresh(-1, walletauthtest.Fault{Do: func(*http.Request) { times.note() }, Delay: 100 * time.Millisecond})
		for range 10 {
			var all sync.WaitGroup
			for i := range 100 {
				all.Go(func() { w.wantStatus(t, "GET", fmt.Sprint("/refusing/", i), 401) })
			}
			all.Wait()
			w.wantStatus(t, "GET", "/wallets", 200)
			time.Sleep(10 * time.Second)
		}
		times.want(t, 3)
	})
	inBubble(t, "outside of HTTP: Renew refreshes 3 times in 5 minutes at most", func(t *testing.T) {
		k := newKeptBy(t, walletauthtest.Config{TB: t, AccessTokenTTL: 24 * time.Hour})
		var times refreshTimes
		k.srv.FailRefresh(-1, walletauthtest.Fault{Do: func(*http.Request) { times.note() }})
		rejected := k.first
		for range 600 {
			if next, err := k.Renew(t.Context(), rejected); err == nil {
				rejected = next
			} else if errors.Is(err, walletauth.ErrSessionExpired) || errors.Is(err, walletauth.ErrNoSession) {
				t.Fatalf("%v, though the session is good", err)
			}
			time.Sleep(3 * time.Second)
		}
		times.want(t, 3)
	})
	inBubble(t, "in and outside of HTTP shares the 3 refreshes in 5 minutes", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{AccessTokenTTL: 24 * time.Hour})
		var times refreshTimes
		w.FailRefresh(-1, walletauthtest.Fault{Do: func(*http.Request) { times.note() }})
		w.Handle("GET /refusing/{id}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
		for i := range 100 {
			w.wantStatus(t, "GET", fmt.Sprint("/refusing/", i), 401)
			_, _ = w.transport.Renew(t.Context(), w.stored(t, ""))
			time.Sleep(3 * time.Second)
		}
		times.want(t, 3)
	})
	inBubble(t, "is not a token that is revoked again and again, which is refreshed and replayed each time", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{AccessTokenTTL: 24 * time.Hour})
		for range 30 { // 5 minutes
			w.RevokeAccess("user-1")
			w.wantStatus(t, "GET", "/wallets", 200)
			time.Sleep(10 * time.Second)
		}
		w.wantRefreshes(t, 30)
	})
	inBubble(t, "costs another key nothing", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{AccessTokenTTL: 24 * time.Hour})
		w.login(t, "b", "user-b")
		w.Handle("GET /refusing/{id}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
		for i := range 100 {
			w.wantStatus(t, "GET", fmt.Sprint("/refusing/", i), 401)
		}
		w.RevokeAccess("user-b")
		req := w.newRequest(t, "GET", "/wallets", nil)
		resp := w.mustDo(t, req.WithContext(walletauth.WithKey(t.Context(), "b")))
		if drain(t, resp); resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	inBubble(t, "leaves refreshes ahead of expiry as they are", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.Handle("GET /refusing/{id}", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
		for i := range 240 { // an hour
			w.wantStatus(t, "GET", fmt.Sprint("/refusing/", i), 401)
			w.wantStatus(t, "GET", "/wallets", 200)
			time.Sleep(15 * time.Second)
		}
	})
}

// wants401 demands that a request gets its 401 back.
func (k *kept) wants401(path string) {
	k.t.Helper()
	req, err := http.NewRequestWithContext(k.t.Context(), http.MethodGet, k.BaseURL+path, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	resp, err := k.RoundTrip(req)
	if err != nil {
		k.t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode != 401 {
		k.t.Errorf("status %d, want 401", resp.StatusCode)
	}
}

// file is a body that shares its offset with all who read it, as an *os.File
// that is rewound by GetBody does.
type file struct {
	mu  sync.Mutex
	r   *bytes.Reader
	got int // calls of GetBody
}

func (f *file) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.r.Read(p)
}

func (f *file) getBody() (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got++
	_, err := f.r.Seek(0, io.SeekStart)
	return io.NopCloser(f), err
}

func TestReplay(t *testing.T) {
	const size = 64 << 10
	for name, c := range map[string]struct {
		reads time.Duration // how long the first attempt reads on after its 401
		ends  func(body io.ReadCloser)
		want  int
	}{
		"sends a body that shares its offset whole, though the first attempt reads on": {300 * time.Millisecond, closeBody, 200},
		"sends it whole after a first attempt that was done":                           {0, closeBody, 200},
		"stops a first attempt that would read on for an hour":                         {time.Hour, closeBody, 200},
	} {
		inBubble(t, name, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			want := pattern(size)
			f := &file{r: bytes.NewReader(want)}
			var reading sync.WaitGroup
			first := true
			w.transport.Base = roundTripFunc(func(req *http.Request) (*http.Response, error) {
				switch {
				case req.URL.Path != "/upload":
					return w.RoundTripper().RoundTrip(req)
				case first: // answered at once; the rest of the body is on its way
					first = false
					body := req.Body
					reading.Go(func() {
						for range 16 {
							_, _ = io.ReadFull(body, make([]byte, size/16))
							time.Sleep(c.reads / 16)
						}
						c.ends(body)
					})
					synctest.Wait()
					return reply(&http.Request{}, 401, "no"), nil
				default:
					var got []byte
					for p, n := make([]byte, size/32), 1; n > 0; {
						n, _ = req.Body.Read(p)
						got = append(got, p[:n]...)
						time.Sleep(5 * time.Millisecond) // as a connection does
					}
					_ = req.Body.Close()
					if !bytes.Equal(got, want) {
						t.Errorf("the second attempt sent %d bytes that differ", len(got))
					}
					return reply(&http.Request{}, 200, ""), nil
				}
			})
			req := w.upload(t, f)
			req.Body, req.GetBody, req.ContentLength = io.NopCloser(f), f.getBody, size
			began := time.Now()
			resp := w.mustDo(t, req)
			if body := drain(t, resp); resp.StatusCode != c.want {
				t.Errorf("status %d, body %q, want %d", resp.StatusCode, body, c.want)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %s", took)
			}
			reading.Wait()
		})
	}
	inBubble(t, "sends a body of its own offset by GetBody", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.handleUpload()
		w.RevokeAccess("user-1")
		req := w.upload(t, strings.NewReader("body"))
		if resp := w.mustDo(t, req); drain(t, resp) != "body" || resp.StatusCode != 200 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
}

func closeBody(body io.ReadCloser) { _ = body.Close() }

// Somebody else logs in under the key while a request waits.
func TestAnotherUser(t *testing.T) {
	newUser := func(t *testing.T, age time.Duration, user string) (*kept, func() *walletauth.Session) {
		k := newKept(t)
		k.at(age)
		release := k.hold()
		login := k.srv.Login(user)
		go func() { _ = walletauth.Save(context.Background(), k.Store, "", login) }()
		synctest.Wait() // first in line
		time.AfterFunc(time.Second, release)
		return k, func() *walletauth.Session { return login }
	}
	wantNeither := func(t *testing.T, what string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, walletauth.ErrNoSession) || errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("%s: %v, want an error that wraps neither sentinel", what, err)
		}
	}
	inBubble(t, "does not get a POST that waited with an expired token", func(t *testing.T) {
		k, _ := newUser(t, 5*time.Minute, "other")
		body := newCountedBody("{}")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, k.BaseURL+"/wallets", body)
		if err != nil {
			t.Fatal(err)
		}
		sentNothing := k.mark()
		resp, err := k.RoundTrip(req)
		if resp != nil {
			t.Errorf("status %d", resp.StatusCode)
		}
		wantNeither(t, "RoundTrip", err)
		sentNothing(t)
		body.wantClosed(t)
		if n := k.srv.User("other").Requests; n != 0 {
			t.Errorf("%d requests as the other user", n)
		}
		time.Sleep(time.Second)
		k.works(0) // the next one begins as the other user
	})
	inBubble(t, "does not get a request that waited with a token about to expire", func(t *testing.T) {
		k, _ := newUser(t, late, "other")
		_, _ = k.get(t.Context()) // an error, or as the user that it began as
		if n := k.srv.User("other").Requests; n != 0 {
			t.Errorf("%d requests as the other user", n)
		}
	})
	inBubble(t, "does not get what Session was asked for", func(t *testing.T) {
		k, _ := newUser(t, 5*time.Minute, "other")
		s, err := k.Session(t.Context())
		if s != nil {
			t.Errorf("session %v", s)
		}
		wantNeither(t, "Session", err)
	})
	inBubble(t, "does not get what Renew was asked for, after a wait", func(t *testing.T) {
		k, _ := newUser(t, time.Minute, "other")
		s, err := k.Renew(t.Context(), k.first)
		if s != nil {
			t.Errorf("session %v", s)
		}
		wantNeither(t, "Renew", err)
	})
	inBubble(t, "does not get what Renew was asked for, at once", func(t *testing.T) {
		k := newKept(t)
		k.login("", "other")
		s, err := k.Renew(t.Context(), k.first)
		if s != nil {
			t.Errorf("session %v", s)
		}
		wantNeither(t, "Renew", err)
		k.sent(0)
	})
	inBubble(t, "is not the same user who logged in again, as whom the request goes out", func(t *testing.T) {
		k, login := newUser(t, 5*time.Minute, "user")
		k.works(time.Second)
		k.wentOutWith(login())
		k.sent(0)
	})
}

// Whatever the header of a 401, of the refresh and of the replay says: the
// session is traded in once, the caller gets its answer with that header, and
// the next request is served too.
func FuzzResponseHeader(f *testing.F) {
	f.Add("Sat, 01 Jan 2000 00:00:00 GMT", "", `Bearer error="invalid_token"`, "application/json", "0", "Connection", "close")
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT", "120", "", "text/html", "-1", "", "")
	f.Add("Mon, 01 Jan 0001 00:00:00 GMT", "-1", "Basic", "", "99999999999999999999", "Date", "Sat, 01 Jan 2000 09:00:00 GMT")
	f.Add("Saturday, 01-Jan-00 05:00:00 GMT", "Sat, 01 Jan 2000 00:00:09 GMT", "", "multipart/mixed; boundary=\"", "1", "Content-Encoding", "gzip")
	f.Fuzz(func(t *testing.T, date, retryAfter, authenticate, kind, length, name, value string) {
		synctest.Test(t, func(t *testing.T) {
			checkResponseHeader(t, http.Header{
				name: {value}, "Date": {date}, "Retry-After": {retryAfter}, "Www-Authenticate": {authenticate},
				"Content-Type": {kind}, "Content-Length": {length},
			})
		})
	})
}

func checkResponseHeader(t *testing.T, header http.Header) {
	store, before := &walletauth.MemoryStore{}, freshSession()
	before.AccessToken, before.RefreshToken = "OLD-access-5ecret", "OLD-refresh-5ecret"
	if err := walletauth.Save(t.Context(), store, "", before); err != nil {
		t.Fatal(err)
	}
	refreshes := 0
	tr := &walletauth.Transport{Store: store, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		a := answer{status: 200, header: header}
		switch {
		case strings.HasSuffix(req.URL.Path, "/users/refresh-token"):
			refreshes++
			a.body = encoded(t, freshSession())
		case req.Header.Get("Authorization") == "Bearer "+before.AccessToken:
			a.status = 401
		}
		return a.response(), nil
	})}
	for range 2 {
		resp, err := tr.RoundTrip(mustRequest(t, http.MethodGet, "/wallets"))
		if err != nil {
			t.Fatal(err)
		}
		answer{status: 200, header: header}.check(t, resp)
	}
	stored, err := store.Load(t.Context(), "")
	if err != nil || *stored != *freshSession() {
		t.Errorf("stored %v, %v", stored, err)
	}
	if refreshes == 0 || refreshes > 2 { // by a Date that is wrong the new session may be due at once
		t.Errorf("%d refreshes", refreshes)
	}
	if err := tr.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whatever header a caller sets, in whatever spelling of its name: its own
// Authorization, project and token source win, what it does not set is added
// once, all else goes out as it is, and the request stays the caller's.
func FuzzRequestHeader(f *testing.F) {
	f.Add("Accept", "application/json", "", "", "", "", "")
	f.Add("authorization", "Bearer mine", "Authorization", "", "", "", "")
	f.Add("AUTHORIZATION", "", "x-walletkit-project-id", "mine", "X-WalletKit-Token-Source", "firebase", "second")
	f.Add("X-Walletkit-Project-Id", "", "X-Walletkit-Token-Source", "", "Authorization", "Basic bWU6bWU=", "Bearer other")
	f.Add("\x00", "\r\nX: y", "Cookie", "a=b", "Host", "elsewhere.example", "")
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2, name3, value3, again string) {
		header := http.Header{name1: {value1}, name2: {value2}}
		header[name3] = append(header[name3], value3, again)
		checkRequestHeader(t, header)
	})
}

func checkRequestHeader(t *testing.T, header http.Header) {
	s, store := freshSession(), &walletauth.MemoryStore{}
	s.AccessTokenExpiresAt = s.CreatedAt.AddDate(1000, 0, 0)
	if err := walletauth.Save(t.Context(), store, "", s); err != nil {
		t.Fatal(err)
	}
	var out http.Header
	tr := &walletauth.Transport{Store: store, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		out = req.Header
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	})}
	req := mustRequest(t, http.MethodGet, "/wallets")
	req.Header = header.Clone()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(header, resp.Request.Header); resp.Request != req || diff != "" {
		t.Errorf("the caller's request changed (-was +is):\n%s", diff)
	}
	checkSent(t, header, out, s)
}

func checkSent(t *testing.T, header, out http.Header, s *walletauth.Session) {
	want := http.Header{
		"Authorization":            {"Bearer " + s.AccessToken},
		"X-Walletkit-Project-Id":   {s.ProjectID},
		"X-Walletkit-Token-Source": {"walletkit"},
	}
	if len(given(header, "Authorization")) > 0 {
		delete(want, "X-Walletkit-Token-Source") // it says whose token ours is
	}
	for name := range header {
		usual := http.CanonicalHeaderKey(name)
		if _, ours := wanted[usual]; !ours {
			want[name] = header[name]
			continue
		}
		if choices := given(header, usual); len(choices) > 0 {
			want[usual] = choices[0]
			if slices.ContainsFunc(choices, func(c []string) bool { return slices.Equal(c, out[usual]) }) {
				want[usual] = out[usual] // which of several spellings wins, nobody promises
			}
		}
	}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}

var wanted = map[string]bool{"Authorization": true, "X-Walletkit-Project-Id": true, "X-Walletkit-Token-Source": true}

// given are the values of a field under all the spellings of its name that say
// anything.
func given(header http.Header, usual string) (choices [][]string) {
	for name, values := range header {
		if http.CanonicalHeaderKey(name) == usual && strings.Join(values, "") != "" {
			choices = append(choices, values)
		}
	}
	return choices
}

func TestSessionThatEndsServesNoRequestWithATokenThatGotA401(t *testing.T) {
	newEnding := func(t *testing.T) (k *kept, sent *int) {
		k = newKept(t, func(k *kept) {
			k.Refresher = refreshFunc(func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
				time.Sleep(10 * time.Second)
				return nil, &walletauth.RefreshError{StatusCode: 401, Err: walletauth.ErrSessionExpired}
			})
		})
		sent = new(int)
		k.edit(func(_ *http.Request, resp *http.Response) { *sent++; resp.StatusCode = 401 })
		return k, sent
	}
	over := func(k *kept, sent *int) {
		k.t.Helper()
		if err := k.fails(0); !errors.Is(err, walletauth.ErrSessionExpired) || *sent != 1 {
			k.t.Errorf("%d requests were sent, want 1; the last: %v", *sent, err)
		}
	}
	inBubble(t, "whose caller has left", func(t *testing.T) {
		k, sent := newEnding(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.get(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller that leaves: %v", err)
		}
		time.Sleep(time.Minute)
		over(k, sent)
	})
	inBubble(t, "whose refresh was one ahead of time", func(t *testing.T) {
		k, sent := newEnding(t)
		k.at(early)
		if _, err := k.get(t.Context()); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("the request that got the 401: %v", err)
		}
		over(k, sent)
	})
}

// A refresh ahead of time may have learned that a session is over, while its
// access token served on. A 401 then is the end of it, also for a request that was
// sent with an older token first.
func TestA401OfASessionThatIsOverEndsTheReplayToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := freshSession(), freshSession()
		next.AccessToken, next.RefreshToken = "next-access-token", "next-refresh-token"
		next.AccessTokenExpiresAt = time.Now().Add(12 * time.Second)
		store := &walletauth.MemoryStore{}
		if err := walletauth.Save(t.Context(), store, "", old); err != nil {
			t.Fatal(err)
		}
		answer, sent := make(chan struct{}), 0
		refused := func() *http.Response { return &http.Response{StatusCode: http.StatusUnauthorized, Body: http.NoBody} }
		tr := &walletauth.Transport{
			Store: store, BaseURL: "https://walletkit.test",
			Refresher: refreshFunc(func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
				return nil, &walletauth.RefreshError{StatusCode: 403, Err: walletauth.ErrSessionExpired}
			}),
			Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if req.Header.Get("Authorization") == "Bearer "+old.AccessToken {
					<-answer
					return refused(), nil
				}
				if sent++; sent == 1 {
					return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
				}
				return refused(), nil
			}),
		}
		get := func() (*http.Response, error) {
			return tr.RoundTrip(httptest.NewRequest(http.MethodGet, "https://walletkit.test/wallets", nil))
		}
		var first sync.WaitGroup
		first.Go(func() {
			if resp, err := get(); !errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("the request that was sent again: %v, %v; want ErrSessionExpired", resp, err)
			}
		})
		synctest.Wait()
		if err := walletauth.Save(t.Context(), store, "", next); err != nil {
			t.Fatal(err)
		}
		if resp, err := get(); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("while the access token serves: %v, %v", resp, err)
		}
		time.Sleep(time.Second) // the refresh behind it ends
		close(answer)
		first.Wait()
		if _, err := get(); !errors.Is(err, walletauth.ErrSessionExpired) || sent != 2 {
			t.Errorf("a later request: %v, %d sent with the token; want ErrSessionExpired and 2", err, sent)
		}
	})
}
