package walletauthtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/google/go-cmp/cmp"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// client sends what a careful client of the API would.
type client struct {
	testing.TB
	srv  *walletauthtest.Server
	http *http.Client
}

func newClient(t testing.TB, srv *walletauthtest.Server) *client {
	return &client{t, srv, srv.Client()}
}

// reply is a response that was read whole. err says that sending or
// reading failed.
type reply struct {
	status int
	header http.Header
	body   string
	err    error
}

func (c *client) send(endpoint, body string, header http.Header) reply {
	return c.sendCtx(c.Context(), endpoint, body, header)
}

// sendCtx sends to an endpoint, which may have a query. A header that is
// nil is not sent.
func (c *client) sendCtx(ctx context.Context, endpoint, body string, header http.Header) reply {
	method, path, _ := strings.Cut(endpoint, " ")
	req, err := http.NewRequestWithContext(ctx, method, c.srv.URL+path, strings.NewReader(body))
	if err != nil {
		return reply{err: err}
	}
	req.Header.Set("X-WalletKit-Project-ID", "project")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, values := range header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(data), err}
}

func bearer(token string) http.Header {
	return http.Header{"Authorization": {"Bearer " + token}, "X-WalletKit-Token-Source": {"walletkit"}}
}

func refreshBody(s *walletauth.Session) string {
	return fmt.Sprintf(`{"session_id":%q,"refresh_token":%q}`, s.ID, s.RefreshToken)
}

func (c *client) refresh(s *walletauth.Session) reply {
	return c.send(walletauthtest.RefreshToken, refreshBody(s), nil)
}

// mustRefresh returns the session that a refresh answers with.
func (c *client) mustRefresh(s *walletauth.Session) *walletauth.Session {
	c.Helper()
	return c.session(c.refresh(s))
}

func (c *client) session(r reply) *walletauth.Session {
	c.Helper()
	s, err := walletauth.JSONCodec{}.Decode("", []byte(r.body))
	if r.err != nil || r.status != http.StatusOK || err != nil {
		c.Fatalf("%d %s, error %v, %v, want a session", r.status, r.body, r.err, err)
	}
	return s
}

func (c *client) list(token string) reply {
	return c.send(walletauthtest.ListWallets, "", bearer(token))
}

func (c *client) wantStatus(what string, r reply, status int) {
	c.Helper()
	if r.err != nil || r.status != status {
		c.Errorf("%s: %d %s, error %v, want status %d", what, r.status, r.body, r.err, status)
	}
}

// wantRefusal checks for WalletKit's ErrorResponse.
func (c *client) wantRefusal(what string, r reply, status int, message string) {
	c.Helper()
	c.wantStatus(what, r, status)
	if got := r.header.Get("Content-Type"); got != "application/json" {
		c.Errorf("%s: Content-Type %q, want application/json", what, got)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(r.body), &got); err != nil {
		c.Errorf("%s: %q is not JSON: %v", what, r.body, err)
	}
	if diff := cmp.Diff(map[string]any{"code": nil, "error": message}, got); diff != "" {
		c.Errorf("%s: not the ErrorResponse it should be (-want +got):\n%s", what, diff)
	}
}

const unauthorized = "No valid API key provided or invalid session token"

type refusal struct {
	name, endpoint, body string
	header               http.Header
	status               int
	message              string
}

// wantRefusals checks that each row is refused with an ErrorResponse that
// holds no token, and that live works afterwards.
func wantRefusals(t *testing.T, srv *walletauthtest.Server, live *walletauth.Session, rows []refusal) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := newClient(t, srv)
			r := c.send(row.endpoint, row.body, row.header)
			c.wantRefusal("the reply", r, row.status, row.message)
			for _, token := range []string{live.AccessToken, live.RefreshToken} {
				if strings.Contains(r.body, token) {
					t.Errorf("the reply %s holds a token", r.body)
				}
			}
		})
	}
	c := newClient(t, srv)
	c.wantStatus("the session, after all that", c.list(live.AccessToken), 200)
	c.mustRefresh(live)
}

func TestRefusesWrongHeaders(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	live := srv.Login("user-1")
	with := func(name string, values ...string) http.Header {
		h := bearer(live.AccessToken)
		h[name] = values
		return h
	}
	wantRefusals(t, srv, live, []refusal{
		{"no project", walletauthtest.ListWallets, "", with("X-WalletKit-Project-ID"), 400, `X-WalletKit-Project-ID is missing: here it is "project"`},
		{"another project", walletauthtest.ListWallets, "", with("X-WalletKit-Project-ID", "p2"), 403, `X-WalletKit-Project-ID names an unknown project: here it is "project" (walletauthtest.Config.ProjectID)`},
		{"two projects", walletauthtest.ListWallets, "", with("X-WalletKit-Project-ID", "project", "project"), 400, "X-WalletKit-Project-ID was sent twice: send it once"},
		{"no project at login", walletauthtest.LoginAnonymously, "", http.Header{"X-WalletKit-Project-ID": nil}, 400, `X-WalletKit-Project-ID is missing: here it is "project"`},
		{"no bearer", walletauthtest.ListWallets, "", with("Authorization"), 401, unauthorized},
		{"a key in place of a bearer", walletauthtest.ListWallets, "", with("Authorization", "Basic eDp5"), 401, unauthorized},
		{"an empty bearer", walletauthtest.ListWallets, "", with("Authorization", "Bearer "), 401, unauthorized},
		{"two bearers", walletauthtest.ListWallets, "", with("Authorization", "Bearer a", "Bearer b"), 400, "Authorization was sent twice: send it once"},
		{"an unknown bearer", walletauthtest.ListWallets, "", with("Authorization", "Bearer guessed"), 401, unauthorized},
		{"a refresh token for a bearer", walletauthtest.ListWallets, "", with("Authorization", "Bearer "+live.RefreshToken), 401, unauthorized},
		{"a token source that is none", walletauthtest.ListWallets, "", with("X-WalletKit-Token-Source", "auth0"), 400, "X-WalletKit-Token-Source is not one of walletkit, firebase or supabase"},
		{"logout without a bearer", walletauthtest.Logout, "", nil, 401, unauthorized},
		{"passkey registration without a bearer", walletauthtest.BeginPasskeyRegistration, "", nil, 401, unauthorized},
	})
}

func TestRefusesWrongRefreshes(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	live, other := srv.Login("user-1"), srv.Login("user-2")
	const asForm = "application/x-www-form-urlencoded"
	wantRefusals(t, srv, live, []refusal{
		{"a refresh that is a form", walletauthtest.RefreshToken, refreshBody(live), http.Header{"Content-Type": {asForm}}, 400, "Content-Type is not application/json"},
		{"a refresh without a type", walletauthtest.RefreshToken, refreshBody(live), http.Header{"Content-Type": nil}, 400, "Content-Type is not application/json"},
		{"a refresh that is no JSON", walletauthtest.RefreshToken, `{"session_id":`, nil, 400, "the body is not a JSON object with session_id, refresh_token"},
		{"a refresh that is an array", walletauthtest.RefreshToken, `[]`, nil, 400, "the body is not a JSON object with session_id, refresh_token"},
		{"a refresh with more behind it", walletauthtest.RefreshToken, refreshBody(live) + "{}", nil, 400, "the body is not a JSON object with session_id, refresh_token"},
		{"a refresh with a number", walletauthtest.RefreshToken, `{"session_id":1,"refresh_token":"r"}`, nil, 400, "session_id is not a JSON string"},
		{"a refresh without the session", walletauthtest.RefreshToken, `{"refresh_token":"r"}`, nil, 400, "session_id is missing"},
		{"a refresh without the token", walletauthtest.RefreshToken, `{"session_id":"s"}`, nil, 400, "refresh_token is missing"},
		{"a refresh of a MiB", walletauthtest.RefreshToken, strings.Repeat(" ", 1<<20) + refreshBody(live), nil, 400, "the body is larger than 1048576 bytes"},
		{"an unknown refresh token", walletauthtest.RefreshToken, `{"session_id":"s","refresh_token":"r"}`, nil, 401, unauthorized},
		{"an access token for a refresh token", walletauthtest.RefreshToken, fmt.Sprintf(`{"session_id":%q,"refresh_token":%q}`, live.ID, live.AccessToken), nil, 401, unauthorized},
		{"the id of another session", walletauthtest.RefreshToken, fmt.Sprintf(`{"session_id":%q,"refresh_token":%q}`, other.ID, live.RefreshToken), nil, 401, unauthorized},
	})
}

func TestRefusesWrongLoginsWalletsAndPaths(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	live := srv.Login("user-1")
	wantRefusals(t, srv, live, []refusal{
		{"a login without an address", walletauthtest.LoginWithEmail, `{}`, nil, 400, "email is missing"},
		{"a login without a wallet", walletauthtest.LoginWithWallet, `{}`, nil, 400, "sign_in_wallet is missing"},
		{"a challenge without a code", walletauthtest.GetSessionChallenge, "", nil, 400, "code is missing"},
		{"a challenge that is not there", walletauthtest.GetSessionChallenge + "?code=x", "", nil, 404, "no such session challenge: code is what login-with-magic-link or create-session-challenge answered, until verify-login has used it"},
		{"a code that was never sent", walletauthtest.VerifyLogin, `{"user_id":"u","verification_code":"123456"}`, nil, 400, "no login was begun that this verifies: begin one for this user, by login-with-email for example; each verifies once"},
		{"a wrong code", walletauthtest.VerifyLogin, `{"user_id":"u","verification_code":"1"}`, nil, 400, "the verification code is wrong: it is always 123456"},
		{"a passkey that is a string", walletauthtest.VerifyLogin, `{"passkey_credential_assertion_response":"x"}`, nil, 400, "passkey_credential_assertion_response is not a JSON object"},
		{"a login that is a string", walletauthtest.VerifyLogin, `"x"`, nil, 400, "the body is not a JSON object with user_id, verification_code, siwe_message, signature, session_challenge_code, passkey_credential_assertion_response"},
		{"a login that proves nothing", walletauthtest.VerifyLogin, `{}`, nil, 400, "none of verification_code, siwe_message, session_challenge_code and passkey_credential_assertion_response is there"},
		{"a wallet without a network", walletauthtest.CreateWallet, `{"name":"n","control_mode":"user"}`, bearer(live.AccessToken), 400, "network is missing: send one of Ethereum, Polygon, Base, Avalanche, Polkadot or Vara"},
		{"a wallet on another network", walletauthtest.CreateWallet, `{"network":"base","name":"n","control_mode":"user"}`, bearer(live.AccessToken), 400, "network is not one of Ethereum, Polygon, Base, Avalanche, Polkadot or Vara"},
		{"a wallet without a name", walletauthtest.CreateWallet, `{"network":"Base","control_mode":"user"}`, bearer(live.AccessToken), 400, "name is missing"},
		{"a wallet without a mode", walletauthtest.CreateWallet, `{"network":"Base","name":"n"}`, bearer(live.AccessToken), 400, "control_mode is missing: send one of developer or user"},
		{"a wallet with another mode", walletauthtest.CreateWallet, `{"network":"Base","name":"n","control_mode":"mine"}`, bearer(live.AccessToken), 400, "control_mode is not one of developer or user"},
		{"wallets on another network", walletauthtest.ListWallets + "?network=Solana", "", bearer(live.AccessToken), 400, "network is not one of Ethereum, Polygon, Base, Avalanche, Polkadot or Vara"},
		{"an unknown path", "GET /users/me", "", bearer(live.AccessToken), 404, "no such endpoint: the paths are in the constants of walletauthtest, and Server.Handle adds more"},
		{"an unknown method", "DELETE /wallets", "", bearer(live.AccessToken), 404, "no such endpoint: /wallets takes GET or POST"},
		{"a path with a slash too many", "GET /wallets/", "", bearer(live.AccessToken), 404, "no such endpoint: /wallets takes GET or POST"},
		{"a path with two slashes", "GET //wallets", "", bearer(live.AccessToken), 404, "no such endpoint: /wallets takes GET or POST"},
	})
}

func TestTokensExpireByTheServersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{AccessTokenTTL: time.Minute, RefreshTokenTTL: time.Hour})
		defer srv.Close()
		c, s := newClient(t, srv), srv.Login("user-1")
		time.Sleep(time.Minute - time.Nanosecond)
		c.wantStatus("the access token, a nanosecond before its end", c.list(s.AccessToken), 200)
		time.Sleep(time.Nanosecond)
		c.wantRefusal("the access token at its end", c.list(s.AccessToken), 401, unauthorized)
		time.Sleep(59*time.Minute - time.Nanosecond)
		renewed := c.mustRefresh(s)
		time.Sleep(time.Hour)
		c.wantRefusal("the refresh token at its end", c.refresh(renewed), 401, unauthorized)
	})
}

func TestRefreshAnswersWithTheSameSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{ProjectID: "project"})
		defer srv.Close()
		c, before := newClient(t, srv), srv.Login("user-1")
		time.Sleep(3 * time.Minute)
		after := c.mustRefresh(before)
		want := *before
		want.AccessToken, want.RefreshToken = after.AccessToken, after.RefreshToken
		want.AccessTokenExpiresAt = before.AccessTokenExpiresAt.Add(3 * time.Minute)
		want.RefreshTokenExpiresAt = before.RefreshTokenExpiresAt.Add(3 * time.Minute)
		if diff := cmp.Diff(&want, after); diff != "" {
			t.Errorf("after a refresh (-want +got):\n%s", diff)
		}
		if after.AccessToken == before.AccessToken || after.RefreshToken == before.RefreshToken {
			t.Error("a refresh answers with a token that was there before")
		}
		if diff := cmp.Diff([]*walletauth.Session{after}, srv.Sessions("user-1")); diff != "" {
			t.Errorf("Sessions (-want +got):\n%s", diff)
		}
		c.wantStatus("the old access token", c.list(before.AccessToken), 200)
		c.wantStatus("the new access token", c.list(after.AccessToken), 200)
	})
}

func TestReuseOfARefreshTokenEndsTheSession(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	c, first, bystander := newClient(t, srv), srv.Login("user-1"), srv.Login("user-1")
	second := c.mustRefresh(first)
	c.wantRefusal("the used token", c.refresh(first), 401, unauthorized)
	c.wantRefusal("the token that was good", c.refresh(second), 401, unauthorized)
	c.wantRefusal("the access token", c.list(second.AccessToken), 401, unauthorized)
	c.wantStatus("another session of the user", c.list(bystander.AccessToken), 200)
	want := walletauthtest.Stats{
		Requests: 5, Refreshes: 1, RefreshesRefused: 2, Reuses: 1, Unauthorized: 3, Violations: 1,
	}
	if diff := cmp.Diff(want, srv.Stats()); diff != "" {
		t.Errorf("Stats (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(walletauthtest.UserStats{Requests: 1, Refreshes: 1, Reuses: 1}, srv.User("user-1")); diff != "" {
		t.Errorf("User (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"POST /users/refresh-token: a refresh token was used twice: send the one that the last refresh answered with"}, srv.Violations()); diff != "" {
		t.Errorf("Violations (-want +got):\n%s", diff)
	}
	if got := srv.Refreshes(first.ID); got != 1 {
		t.Errorf("Refreshes = %d, want 1", got)
	}
}

func TestReuseGrace(t *testing.T) {
	grace := func(t *testing.T, test func(c *client, srv *walletauthtest.Server, first *walletauth.Session)) {
		synctest.Test(t, func(t *testing.T) {
			srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{ReuseGrace: 30 * time.Second, NewSessionID: true})
			defer srv.Close()
			test(newClient(t, srv), srv, srv.Login("user-1"))
		})
	}
	t.Run("a used token is answered as the first time within it", func(t *testing.T) {
		grace(t, func(c *client, srv *walletauthtest.Server, first *walletauth.Session) {
			second := c.mustRefresh(first)
			third := c.mustRefresh(second)
			time.Sleep(30*time.Second - time.Nanosecond)
			for range 2 {
				if diff := cmp.Diff(second, c.mustRefresh(first)); diff != "" {
					t.Errorf("another answer than the first (-want +got):\n%s", diff)
				}
			}
			c.mustRefresh(third)
			want := walletauthtest.Stats{Requests: 5, Refreshes: 3, Repeats: 2}
			if diff := cmp.Diff(want, srv.Stats()); diff != "" {
				t.Errorf("Stats (-want +got):\n%s", diff)
			}
			if got := srv.Refreshes(first.ID); got != 3 {
				t.Errorf("Refreshes = %d, want 3", got)
			}
		})
	})
	t.Run("after it reuse ends the session", func(t *testing.T) {
		grace(t, func(c *client, srv *walletauthtest.Server, first *walletauth.Session) {
			second := c.mustRefresh(first)
			time.Sleep(30 * time.Second)
			c.wantRefusal("the used token", c.refresh(first), 401, unauthorized)
			c.wantRefusal("the token that was good", c.refresh(second), 401, unauthorized)
			if got := srv.Stats(); got.Reuses != 1 || got.Repeats != 0 {
				t.Errorf("%d reuses and %d repeats, want 1 and 0", got.Reuses, got.Repeats)
			}
		})
	})
	t.Run("it forgives no wrong id", func(t *testing.T) {
		grace(t, func(c *client, srv *walletauthtest.Server, first *walletauth.Session) {
			mixed := *first
			mixed.ID = c.mustRefresh(first).ID
			c.wantRefusal("the used token with the new id", c.refresh(&mixed), 401, unauthorized)
			if got := srv.Stats().Reuses; got != 1 {
				t.Errorf("Reuses = %d, want 1", got)
			}
		})
	})
	t.Run("it brings back no session that has ended", func(t *testing.T) {
		grace(t, func(c *client, srv *walletauthtest.Server, first *walletauth.Session) {
			c.mustRefresh(first)
			srv.RevokeSessions("user-1")
			c.wantRefusal("the used token", c.refresh(first), 401, unauthorized)
		})
	})
	t.Run("of many at once one refreshes and all have its answer", func(t *testing.T) {
		srv := walletauthtest.NewServer(walletauthtest.Config{ReuseGrace: time.Hour, TB: t})
		c, s := newClient(t, srv), srv.Login("user-1")
		tokens := make(chan string, 32)
		var all sync.WaitGroup
		for range cap(tokens) {
			all.Go(func() { tokens <- c.refresh(s).body })
		}
		all.Wait()
		want := <-tokens
		for range cap(tokens) - 1 {
			if got := <-tokens; got != want {
				t.Errorf("answers differ: %s and %s", got, want)
			}
		}
		if got := srv.Stats(); got.Refreshes != 1 || got.Repeats != cap(tokens)-1 {
			t.Errorf("%d refreshes and %d repeats, want 1 and %d", got.Refreshes, got.Repeats, cap(tokens)-1)
		}
	})
}

func TestConfigSwitchesWhatIsNotDocumented(t *testing.T) {
	for _, row := range []struct {
		name   string
		config walletauthtest.Config
		verify func(t *testing.T, c *client, before, after *walletauth.Session)
	}{
		{"KeepRefreshToken", walletauthtest.Config{KeepRefreshToken: true}, func(t *testing.T, c *client, before, after *walletauth.Session) {
			if after.RefreshToken != before.RefreshToken || !after.RefreshTokenExpiresAt.Equal(before.RefreshTokenExpiresAt) {
				t.Error("the refresh token or its expiry has changed")
			}
			c.mustRefresh(before)
		}},
		{"NewSessionID", walletauthtest.Config{NewSessionID: true}, func(t *testing.T, c *client, before, after *walletauth.Session) {
			if after.ID == before.ID {
				t.Error("the id has not changed")
			}
			mixed := *after
			mixed.ID = before.ID
			c.wantRefusal("the new token with the old id", c.refresh(&mixed), 401, unauthorized)
			c.mustRefresh(after)
		}},
		{"OneAccessToken", walletauthtest.Config{OneAccessToken: true}, func(t *testing.T, c *client, before, after *walletauth.Session) {
			c.wantRefusal("the old access token", c.list(before.AccessToken), 401, unauthorized)
			c.wantStatus("the new access token", c.list(after.AccessToken), 200)
		}},
		{"AccessTokenTTL", walletauthtest.Config{AccessTokenTTL: -1}, func(t *testing.T, c *client, _, after *walletauth.Session) {
			c.wantRefusal("an access token that was born expired", c.list(after.AccessToken), 401, unauthorized)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			srv := walletauthtest.NewServer(row.config)
			defer srv.Close()
			c, before := newClient(t, srv), srv.Login("user-1")
			row.verify(t, c, before, c.mustRefresh(before))
		})
	}
}

func TestRevoking(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	c, s, other := newClient(t, srv), srv.Login("user-1"), srv.Login("user-2")
	if n := srv.RevokeAccess("user-1"); n != 1 {
		t.Errorf("RevokeAccess = %d, want 1", n)
	}
	c.wantRefusal("a revoked access token", c.list(s.AccessToken), 401, unauthorized)
	s = c.mustRefresh(s)
	c.wantStatus("the access token after it", c.list(s.AccessToken), 200)
	if n := srv.RevokeSessions("user-1"); n != 1 {
		t.Errorf("RevokeSessions = %d, want 1", n)
	}
	c.wantRefusal("the access token of a revoked session", c.list(s.AccessToken), 401, unauthorized)
	c.wantRefusal("the refresh token of a revoked session", c.refresh(s), 401, unauthorized)
	c.wantStatus("another user", c.list(other.AccessToken), 200)
	if n := srv.RevokeAccess("user-1") + srv.RevokeSessions("user-1") + srv.RevokeAccess("nobody"); n != 0 {
		t.Errorf("there is nothing left to revoke, and %d were", n)
	}
}

func TestLogoutNeedsABearerThatWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{AccessTokenTTL: time.Minute})
		defer srv.Close()
		c, s := newClient(t, srv), srv.Login("user-1")
		c.wantRefusal("an unknown bearer", c.send(walletauthtest.Logout, "", bearer("guessed")), 401, unauthorized)
		time.Sleep(time.Minute)
		c.wantRefusal("an expired bearer", c.send(walletauthtest.Logout, "", bearer(s.AccessToken)), 401, unauthorized)
		if got := srv.Stats().Logouts; got != 0 {
			t.Errorf("Logouts = %d, want 0", got)
		}
		renewed := c.mustRefresh(s)
		c.wantStatus("logout with the next bearer", c.send(walletauthtest.Logout, "", bearer(renewed.AccessToken)), 204)
		c.wantRefusal("the bearer after it", c.list(renewed.AccessToken), 401, unauthorized)
		c.wantRefusal("the refresh token after it", c.refresh(renewed), 401, unauthorized)
	})
}

func TestLogoutEndsTheSession(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	c, s, other := newClient(t, srv), srv.Login("user-1"), srv.Login("user-1")
	c.wantStatus("logout", c.send(walletauthtest.Logout, "", bearer(s.AccessToken)), 204)
	c.wantRefusal("a second logout", c.send(walletauthtest.Logout, "", bearer(s.AccessToken)), 401, unauthorized)
	c.wantRefusal("a refresh after logout", c.refresh(s), 401, unauthorized)
	c.wantStatus("another session", c.list(other.AccessToken), 200)
	if diff := cmp.Diff([]*walletauth.Session{other}, srv.Sessions("user-1")); diff != "" {
		t.Errorf("Sessions (-want +got):\n%s", diff)
	}
	if got := srv.Stats().Logouts; got != 1 {
		t.Errorf("Logouts = %d, want 1", got)
	}
}

func TestRepliesAreDatedByTheServersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{})
		defer srv.Close()
		c := newClient(t, srv)
		for _, offset := range []time.Duration{0, 10 * time.Minute, -3 * time.Hour} {
			srv.SetClockOffset(offset)
			now := time.Now().Add(offset)
			if got, want := c.list("").header.Get("Date"), now.UTC().Format(http.TimeFormat); got != want {
				t.Errorf("offset %v: Date %q, want %q", offset, got, want)
			}
			s := srv.Login("user-1")
			if want := now.Add(5 * time.Minute); !s.AccessTokenExpiresAt.Equal(want) {
				t.Errorf("offset %v: the token expires at %v, want %v", offset, s.AccessTokenExpiresAt, want)
			}
			c.wantStatus("its first request", c.list(s.AccessToken), 200)
		}
	})
}

func TestMockClock(t *testing.T) {
	clock := clock.NewMock()
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{Clock: clock, TB: t})
	c, s := newClient(t, srv), srv.Login("user-1")
	if want := clock.Now().Add(5 * time.Minute); !s.AccessTokenExpiresAt.Equal(want) {
		t.Errorf("the token expires at %v, want %v", s.AccessTokenExpiresAt, want)
	}
	clock.Add(5 * time.Minute)
	c.wantRefusal("the access token at its end", c.list(s.AccessToken), 401, unauthorized)
}

func TestUsersSeeTheirOwnWallets(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	c, s, other := newClient(t, srv), srv.Login("user-1"), srv.Login("user-2")
	if got := c.list(s.AccessToken).body; got != "[]\n" {
		t.Errorf("a user without wallets lists %q, want []", got)
	}
	type wallet struct{ ID, Network, Name, Address string }
	create := func(token, network string) (w wallet) {
		r := c.send(walletauthtest.CreateWallet, fmt.Sprintf(`{"network":%q,"name":"n","control_mode":"developer","developer_secret":"s"}`, network), bearer(token))
		c.wantStatus("create", r, 200)
		if err := json.Unmarshal([]byte(r.body), &w); err != nil || w.ID == "" || w.Network != network || w.Name != "n" || len(w.Address) != 42 {
			t.Errorf("create answers %s, %v", r.body, err)
		}
		return w
	}
	base, vara := create(s.AccessToken, "Base"), create(s.AccessToken, "Vara")
	create(other.AccessToken, "Base")
	for query, want := range map[string][]wallet{"": {base, vara}, "?network=Vara": {vara}, "?network=Polygon": {}} {
		var got []wallet
		r := c.send(walletauthtest.ListWallets+query, "", bearer(s.AccessToken))
		if err := json.Unmarshal([]byte(r.body), &got); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("wallets%s (-want +got):\n%s", query, diff)
		}
	}
	byID := walletauthtest.GetWallet + "?network=Base&id=" + base.ID
	c.wantStatus("a wallet of one's own", c.send(byID, "", bearer(s.AccessToken)), 200)
	c.wantRefusal("somebody else's wallet", c.send(byID, "", bearer(other.AccessToken)), 404, "no such wallet: the ids are those that GET /wallets answers, with their networks")
}

func TestFindsClientsThatMixUpUsers(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	c, s := newClient(t, srv), srv.Login("user-1")
	for meant, status := range map[string]int{"user-1": 200, "user-2": 403} {
		header := bearer(s.AccessToken)
		header[walletauthtest.UserHeader] = []string{meant}
		c.wantStatus("on behalf of "+meant, c.send(walletauthtest.ListWallets, "", header), status)
	}
	if got := srv.Stats(); got.WrongUser != 1 || got.Violations != 1 {
		t.Errorf("%d requests for another user, %d violations, want 1 and 1", got.WrongUser, got.Violations)
	}
}

func TestCountsNeedlessBearers(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	c, s := newClient(t, srv), srv.Login("user-1")
	c.wantStatus("a login that carries a bearer", c.send(walletauthtest.LoginAnonymously, "", bearer(s.AccessToken)), 200)
	if got := srv.Stats(); got.NeedlessBearers != 1 || got.Logins != 1 || got.Violations != 0 {
		t.Errorf("%+v, want one needless bearer, one login and no violation", got)
	}
}

// recordingTB is a test that fails without failing this one.
type recordingTB struct {
	testing.TB
	mu     sync.Mutex
	errors []string
}

func (tb *recordingTB) Errorf(format string, args ...any) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.errors = append(tb.errors, fmt.Sprintf(format, args...))
}

func TestViolationsFailTheTestTheServerBelongsTo(t *testing.T) {
	tb := &recordingTB{TB: t}
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: tb})
	c, s := newClient(t, srv), srv.Login("user-1")
	c.mustRefresh(s)
	c.wantStatus("a used token", c.refresh(s), 401)
	c.wantStatus("an ended session, which is no violation", c.list(s.AccessToken), 401)
	want := []string{"walletauthtest: the client broke the protocol: POST /users/refresh-token: a refresh token was used twice: send the one that the last refresh answered with"}
	if diff := cmp.Diff(want, tb.errors); diff != "" {
		t.Errorf("errors (-want +got):\n%s", diff)
	}
}

func TestHandleAddsAnEndpoint(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	srv.Handle("POST /transactions/{id}", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", walletauthtest.UserID(r), r.PathValue("id"), body)
	}))
	c, s := newClient(t, srv), srv.Login("user-1")
	r := c.send("POST /transactions/7", "hello", bearer(s.AccessToken))
	if c.wantStatus("the endpoint", r, 200); r.body != "user-1 7 hello" {
		t.Errorf("the endpoint answers %q", r.body)
	}
	c.wantRefusal("the endpoint without a bearer", c.send("POST /transactions/7", "", nil), 401, unauthorized)
	if got := srv.Requests("POST /transactions/{id}"); got != 2 {
		t.Errorf("Requests = %d, want 2", got)
	}
}

func TestThousandsOfClientsAtOnce(t *testing.T) {
	const users, each = 500, 4
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t, OneAccessToken: true})
	c := newClient(t, srv)
	var all sync.WaitGroup
	for i := range users {
		all.Go(func() {
			user := fmt.Sprintf("user-%d", i)
			s := srv.Login(user)
			for range each {
				var requests sync.WaitGroup
				for range 3 {
					requests.Go(func() { c.wantStatus("list", c.list(s.AccessToken), 200) })
				}
				requests.Wait()
				next, err := walletauth.JSONCodec{}.Decode("", []byte(c.refresh(s).body))
				if err != nil {
					t.Error(err)
					return
				}
				s = next
			}
			if diff := cmp.Diff(walletauthtest.UserStats{Requests: 3 * each, Refreshes: each}, srv.User(user)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", user, diff)
			}
		})
	}
	all.Wait()
	want := walletauthtest.Stats{Requests: users * each * 4, Refreshes: users * each}
	if diff := cmp.Diff(want, srv.Stats()); diff != "" {
		t.Errorf("Stats (-want +got):\n%s", diff)
	}
}

// One of many that send the same refresh token wins, the others end the
// session: no interleaving may let two win.
func TestOneOfManyRefreshesWins(t *testing.T) {
	const clients = 64
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	c, s := newClient(t, srv), srv.Login("user-1")
	var all sync.WaitGroup
	for range clients {
		all.Go(func() { c.refresh(s) })
	}
	all.Wait()
	got := srv.Stats()
	if got.Refreshes != 1 || got.Reuses != clients-1 || got.RefreshesRefused != clients-1 {
		t.Errorf("%d refreshes, %d reuses, %d refused, want 1, 63 and 63", got.Refreshes, got.Reuses, got.RefreshesRefused)
	}
	if live := srv.Sessions("user-1"); len(live) != 0 {
		t.Errorf("the session lives: %v", live)
	}
}
