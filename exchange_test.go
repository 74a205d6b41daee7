package walletauth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// countEvents makes the transport count its events of one type.
func (w *wire) countEvents(what walletauth.EventType) *atomic.Int32 {
	var n atomic.Int32
	w.transport.OnEvent = func(_ context.Context, e walletauth.Event) {
		if e.Type == what {
			n.Add(1)
		}
	}
	return &n
}

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
	w.transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
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
