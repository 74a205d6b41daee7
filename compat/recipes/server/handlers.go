package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/walletauth/walletauth"
)

// server acts for the visitors who are logged in to it.
type server struct {
	transport *walletauth.Transport // one for all
	client    *http.Client          // over transport
	api       string                // the API's address
}

func (s *server) handler(registry *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /walletkit.js", script)
	mux.HandleFunc("POST /login", s.login)
	mux.HandleFunc("POST /logout", s.logout)
	mux.HandleFunc("GET /wallets", s.wallets)
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("GET /ready", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return http.NewCrossOriginProtection().Handler(asVisitor(mux))
}

// asVisitor puts the key of the visitor's session into the context of each
// request. Handlers pass that context on, and need not know the key.
func asVisitor(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(walletauth.WithKey(r.Context(), visitorKey(r))))
	})
}

// visitorKey is the key of the visitor's session.
func visitorKey(r *http.Request) string {
	cookie, err := r.Cookie("visitor")
	if err != nil {
		return "no visitor" // nothing is ever saved under this key
	}
	return keyOf(cookie.Value)
}

// keyOf hashes a cookie's value. Whoever has the value acts as the visitor, and a
// key is no secret: events and logs show it.
func keyOf(visitor string) string {
	sum := sha256.Sum256([]byte(visitor))
	return "visitor " + hex.EncodeToString(sum[:])
}

// login logs a visitor in and sets a cookie that says who it is: random, new with
// every login, hidden from scripts and not sent over plain http.
func (s *server) login(w http.ResponseWriter, r *http.Request) {
	visitor := rand.Text()
	session, err := loginAnonymously(r.Context(), s.client, s.api)
	if err == nil {
		err = walletauth.Save(r.Context(), s.transport.Store, keyOf(visitor), session)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: "visitor", Value: visitor, Path: "/", MaxAge: 30 * 24 * 60 * 60,
		HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode,
	})
	w.WriteHeader(http.StatusNoContent)
}

func loginAnonymously(ctx context.Context, client *http.Client, api string) (*walletauth.Session, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, api+"/users/login-anonymously", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("login: %s", resp.Status)
	}
	var session walletauth.Session
	return &session, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&session)
}

// logout logs the visitor out, whatever WalletKit and the store do: what they have
// not taken is logged, and what the store has not taken is tried again.
func (s *server) logout(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, &http.Cookie{Name: "visitor", Path: "/", MaxAge: -1, HttpOnly: true, Secure: true})
	if err := s.transport.Logout(r.Context()); err != nil {
		slog.WarnContext(r.Context(), "logout", "error", err)
	}
	w.WriteHeader(http.StatusNoContent)
}

// wallets passes on what the API answers to the visitor.
func (s *server) wallets(w http.ResponseWriter, r *http.Request) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, s.api+"/wallets", nil)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized { // not that the visitor is logged out: that is an error
		s.fail(w, r, errors.New("GET /wallets: 401 Unauthorized"))
		return
	}
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // fails if the browser has left
}

// token gives a page an access token. The refresh token never leaves the server:
// if two parties refresh, each invalidates the other's token. A page says which
// token was refused, and gets a newer one.
func (s *server) token(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Refused string `json:"refused"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&in); err != nil {
		http.Error(w, "The request is not JSON.", http.StatusBadRequest)
		return
	}
	session, err := s.transport.Session(r.Context())
	if err == nil && session.AccessToken == in.Refused {
		session, err = s.transport.Renew(r.Context(), session)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(map[string]any{ // fails if the browser has left
		"access_token": session.AccessToken,
		"project_id":   session.ProjectID,
		"expires_in":   int(time.Until(session.AccessTokenExpiresAt).Seconds()), // the page's clock may be wrong
	})
}

// ready says whether the store answers. It asks for a key that nobody has, so that
// no local copy answers in its place, and for at most a second.
func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(walletauth.WithKey(r.Context(), "ready "+rand.Text()), time.Second)
	defer cancel()
	if _, err := s.transport.Status(ctx); err != nil {
		slog.WarnContext(ctx, "not ready", "error", err)
		http.Error(w, "The session store does not answer.", http.StatusServiceUnavailable)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, message := explain(err)
	if status != http.StatusUnauthorized { // that somebody is logged out is nothing to look into
		slog.WarnContext(r.Context(), r.URL.Path, "error", err)
	}
	http.Error(w, message, status)
}

// explain says what a user can do about an error. The user sees nothing else of
// it, and an error that joins several gets one sentence.
func explain(err error) (status int, message string) {
	var store *walletauth.StoreError
	switch {
	case errors.Is(err, walletauth.ErrSessionExpired):
		return http.StatusUnauthorized, "Your login has ended. Log in again."
	case errors.Is(err, walletauth.ErrNoSession):
		return http.StatusUnauthorized, "Log in to see your wallets."
	case errors.Is(err, walletauth.ErrUnreadable):
		return http.StatusUnauthorized, "Your saved login cannot be read. Log in again."
	case errors.As(err, &store):
		return http.StatusServiceUnavailable, "Logins cannot be looked up at the moment. Try again in a minute."
	default:
		return http.StatusBadGateway, "WalletKit cannot be reached. Try again in a minute."
	}
}

var (
	//go:embed page.html
	pageHTML string
	//go:embed walletkit.js
	walletkitJS []byte

	page = template.Must(template.New("page").Parse(pageHTML))
)

// page is a page that calls the API from the browser.
func (s *server) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, s.api) // fails if the browser has left
}

func script(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/javascript; charset=utf-8")
	_, _ = w.Write(walletkitJS) // fails if the browser has left
}
