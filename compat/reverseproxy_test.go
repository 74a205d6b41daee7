package compat

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// newProxy lets browsers call the API through a server that holds their sessions.
// authenticate says who a request is from, "" if that is not known.
//
// Care: headers that the caller sets win, and here the browser is the caller. Its
// Authorization and its cookies are for this server, and it must not choose the
// project, so they are removed.
func newProxy(transport *walletauth.Transport, api *url.URL, authenticate func(*http.Request) string) http.Handler {
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(api)
			for _, name := range []string{"Authorization", "Cookie", "X-WalletKit-Project-ID", "X-WalletKit-Token-Source"} {
				r.Out.Header.Del(name)
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode == http.StatusUnauthorized { // not that the user is logged out: that is an error
				return errors.New("the API answers 401")
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, walletauth.ErrNoSession) || errors.Is(err, walletauth.ErrSessionExpired) {
				http.Error(w, "log in", http.StatusUnauthorized)
				return
			}
			http.Error(w, "try later", http.StatusBadGateway)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := authenticate(r)
		if user == "" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r.WithContext(walletauth.WithKey(r.Context(), user)))
	})
}

func basicUser(r *http.Request) string {
	user, _, _ := r.BasicAuth()
	return user
}

func TestReverseProxyActsForManyUsers(t *testing.T) {
	api := newStandIn(t)
	target, err := url.Parse(api.URL)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(newProxy(api.transport(), target, basicUser))
	defer server.Close()

	users := []string{"ada", "bob", "cyd"}
	for _, u := range users {
		api.login(t, u, u)
	}
	as := func(ctx context.Context, u string) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server.URL+"/wallets",
			strings.NewReader(`{"network": "Base", "name": "savings", "control_mode": "developer"}`))
		if err != nil {
			return err
		}
		req.SetBasicAuth(u, "password")
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(walletauthtest.UserHeader, u) // the stand-in refuses another's bearer
		return done(http.DefaultClient.Do(req))
	}
	api.outlive(t, func(ctx context.Context) error {
		return atOnce(users, func(u string) error { return as(ctx, u) })
	}, users...)

	api.Fail(walletauthtest.CreateWallet, 1, walletauthtest.Fault{Status: http.StatusUnauthorized, After: true})
	api.FailRefresh(1, walletauthtest.Fault{Status: http.StatusNotFound})
	if err := as(t.Context(), "ada"); err == nil || err.Error() != "502 Bad Gateway: try later\n" {
		t.Errorf("a 401 that is not the end of the session: %v, want a 502", err)
	}
	if err := as(t.Context(), "eve"); err == nil || err.Error() != "401 Unauthorized: log in\n" {
		t.Errorf("a user without a session: %v, want a 401", err)
	}
}
