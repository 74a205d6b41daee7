package walletauthtest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/walletauth/walletauth/walletauthtest"
)

type fault = walletauthtest.Fault

func TestFaults(t *testing.T) {
	for _, row := range []struct {
		name    string
		fault   fault
		verify  func(*client, reply)
		rotated int // refreshes that took effect
	}{
		{"the zero Fault does nothing", fault{}, func(c *client, r reply) { c.session(r) }, 1},
		{"a status, with Retry-After", fault{Status: 503, Header: http.Header{"retry-after": {"2"}}}, func(c *client, r reply) {
			c.wantStatus("the reply", r, 503)
			if got := r.header.Get("Retry-After"); got != "2" || r.body != "" {
				c.Errorf("Retry-After %q, body %q, want 2 and none", got, r.body)
			}
		}, 0},
		{"a status after the rotation", fault{Status: 502, After: true}, func(c *client, r reply) {
			c.wantStatus("the reply", r, 502)
		}, 1},
		{"HTML with status 200", fault{Body: "<html>log in to this network</html>"}, func(c *client, r reply) {
			c.wantStatus("the reply", r, 200)
			if got := r.header.Get("Content-Type"); got != "text/html; charset=utf-8" || r.body != "<html>log in to this network</html>" {
				c.Errorf("Content-Type %q, body %q", got, r.body)
			}
		}, 0},
		{"a redirect", fault{Status: 307, Header: http.Header{"Location": {"/elsewhere"}}}, func(c *client, r reply) {
			c.wantRefusal("where it leads", r, 404, "no such endpoint: the paths are in the constants of walletauthtest, and Server.Handle adds more")
		}, 0},
		{"a reply that breaks off", fault{Header: http.Header{"Content-Length": {"100"}}, Body: `{"id":"`}, func(c *client, r reply) {
			if r.status != 200 || r.body != `{"id":"` || !errors.Is(r.err, io.ErrUnexpectedEOF) {
				c.Errorf("status %d, %q, %v, want the first bytes and an unexpected EOF", r.status, r.body, r.err)
			}
		}, 0},
		{"a dropped connection", fault{Drop: true}, wantDropped, 0},
		{"a dropped connection after the rotation", fault{Drop: true, After: true}, wantDropped, 1},
	} {
		for form, newServer := range servers {
			t.Run(row.name+", "+form, func(t *testing.T) {
				srv := newServer(walletauthtest.Config{TB: t})
				c, s := newClient(t, srv), srv.Login("user-1")
				srv.FailRefresh(1, row.fault)
				row.verify(c, c.refresh(s))
				if got := srv.Refreshes(s.ID); got != row.rotated {
					t.Errorf("the token was rotated %d times, want %d", got, row.rotated)
				}
				now := srv.Sessions("user-1")[0]
				c.mustRefresh(now)
				if got := srv.Stats().Faults; got != 1 {
					t.Errorf("Faults = %d, want 1", got)
				}
			})
		}
	}
}

var servers = map[string]func(walletauthtest.Config) *walletauthtest.Server{
	"in memory": walletauthtest.NewUnstartedServer,
	"over HTTP": walletauthtest.NewServer,
	"over TLS": func(config walletauthtest.Config) *walletauthtest.Server {
		srv := walletauthtest.NewUnstartedServer(config)
		srv.StartTLS()
		return srv
	},
}

// wantDropped asks for no more than an error: HTTP/2 resets a stream where
// HTTP/1.1 closes.
func wantDropped(c *client, r reply) {
	if r.err == nil || r.status != 0 {
		c.Errorf("status %d, error %v, want an error", r.status, r.err)
	}
}

func TestTLSSpeaksHTTP2(t *testing.T) {
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
	srv.StartTLS()
	resp, err := srv.Client().Get(srv.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 404 {
		t.Errorf("%s %s, want HTTP/2 and 404", resp.Proto, resp.Status)
	}
}

func TestFaultsQueueUp(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	c, s := newClient(t, srv), srv.Login("user-1")
	srv.Fail(walletauthtest.ListWallets, 2, fault{Status: 500})
	srv.Fail(walletauthtest.ListWallets, 1, fault{})
	srv.Fail(walletauthtest.ListWallets, -1, fault{Status: 502})
	srv.Fail(walletauthtest.ListWallets, 0, fault{Status: 599})
	var got []int
	for range 6 {
		got = append(got, c.list(s.AccessToken).status)
	}
	srv.ClearFaults()
	got = append(got, c.list(s.AccessToken).status)
	if diff := cmp.Diff([]int{500, 500, 200, 502, 502, 502, 200}, got); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

func TestFaultsOfTheAPILeaveLoginsAndRefreshesAlone(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	c, s := newClient(t, srv), srv.Login("user-1")
	srv.Fail(walletauthtest.API, -1, fault{Status: 500})
	srv.Fail(walletauthtest.Logout, 1, fault{Status: 501})
	s = c.mustRefresh(s)
	c.wantStatus("login", c.send(walletauthtest.LoginAnonymously, "", nil), 200)
	c.wantStatus("list", c.list(s.AccessToken), 500)
	c.wantStatus("logout, which has a fault of its own", c.send(walletauthtest.Logout, "", bearer(s.AccessToken)), 501)
	c.wantStatus("logout, which has none left", c.send(walletauthtest.Logout, "", bearer(s.AccessToken)), 500)
}

func TestFailPanicsWhereItCouldNeverStrike(t *testing.T) {
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{})
	defer func() {
		if recover() == nil {
			t.Error("Fail accepts an endpoint that is not there")
		}
	}()
	srv.Fail("/users/refresh-token", 1, fault{})
}

func TestDelayIsByTheServersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
		c, s := newClient(t, srv), srv.Login("user-1")
		srv.FailRefresh(1, fault{Delay: time.Hour})
		begun := time.Now()
		c.mustRefresh(s)
		if took := time.Since(begun); took != time.Hour {
			t.Errorf("the refresh took %v, want 1h", took)
		}
	})
}

// After decides whether the token is rotated when a client gives up.
func TestClientThatLeavesDuringADelay(t *testing.T) {
	for _, after := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
			c, s := newClient(t, srv), srv.Login("user-1")
			srv.FailRefresh(1, fault{Delay: time.Hour, After: after})
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begun := time.Now()
			r := c.sendCtx(ctx, walletauthtest.RefreshToken, refreshBody(s), nil)
			if !errors.Is(r.err, context.DeadlineExceeded) || time.Since(begun) != time.Second {
				t.Errorf("after %v: %v, want the deadline after 1s", time.Since(begun), r.err)
			}
			synctest.Wait()
			rotated := srv.Refreshes(s.ID) == 1
			if rotated != after {
				t.Errorf("After is %v, and rotated is %v", after, rotated)
			}
		})
	}
}

// Over a socket the server learns that the client has left only because it
// has read the body.
func TestClientThatHangsUpEndsADelay(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	c, s := newClient(t, srv), srv.Login("user-1")
	arrived, left := make(chan struct{}), make(chan struct{})
	srv.FailRefresh(1, fault{Do: func(r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(left)
	}, Delay: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if r := c.sendCtx(ctx, walletauthtest.RefreshToken, refreshBody(s), nil); !errors.Is(r.err, context.Canceled) {
		t.Errorf("%v, want a canceled request", r.err)
	}
	<-left
	c.mustRefresh(s)
}

// Do runs in between: the token has been used, the answer has not left.
func TestDoSeesTheEffectWithAfter(t *testing.T) {
	for after, want := range map[bool]int{false: 0, true: 1} {
		srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
		c, s := newClient(t, srv), srv.Login("user-1")
		got := -1
		srv.FailRefresh(1, fault{After: after, Do: func(*http.Request) { got = srv.Refreshes(s.ID) }})
		c.mustRefresh(s)
		if got != want {
			t.Errorf("After is %v: Do sees %d refreshes, want %d", after, got, want)
		}
	}
}

func TestCloseEndsDelays(t *testing.T) {
	for form, newServer := range servers {
		t.Run(form, func(t *testing.T) {
			srv := newServer(walletauthtest.Config{})
			c, s := newClient(t, srv), srv.Login("user-1")
			arrived, answered := make(chan struct{}), make(chan reply, 1)
			srv.FailRefresh(1, fault{Do: func(*http.Request) { close(arrived) }, Delay: time.Hour})
			go func() { answered <- c.refresh(s) }()
			<-arrived
			srv.Close()
			wantDropped(c, <-answered)
			wantDropped(c, c.refresh(s))
			srv.Close()
		})
	}
}
