package compat

import (
	"context"
	"log"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// What an operator reads as text. Warnings are what may pass by itself, errors
// are users who have to log in again; at level info there is nothing else.
//
//	grep 'level=ERROR msg=walletauth' | grep -o ' user_id=[^ ]*'
//	grep 'event="refresh failed"' | grep -o ' error=.*'
func Example_logEventsAsText() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level:       slog.LevelDebug, // Info in production
		ReplaceAttr: sameInEveryRun,
	}))
	eventfulDay(walletauth.LogEvents(logger))
	// Output:
	// level=DEBUG msg=walletauth event="refresh began" reason=rejected key=ada user_id=ada
	// level=DEBUG msg=walletauth event="refresh succeeded" reason=rejected key=ada user_id=ada attempts=1
	// level=DEBUG msg=walletauth event="request replayed" key=ada user_id=ada
	// level=DEBUG msg=walletauth event="refresh began" reason=rejected key=bob user_id=bob
	// level=WARN msg=walletauth event="refresh failed" reason=rejected key=bob user_id=bob attempts=1 error="walletauth: refresh failed: status 503 Service Unavailable"
	// level=DEBUG msg=walletauth event="refresh began" reason=rejected key=cyd user_id=cyd
	// level=ERROR msg=walletauth event="session over" reason=rejected key=cyd user_id=cyd attempts=1 error="walletauth: refresh failed: status 401 Unauthorized: \"No valid API key provided or invalid session token\": the session is over: log in again"
}

// The same as JSON. jq 'select(.event == "session over") | .user_id' lists who
// has to log in again.
func Example_logEventsAsJSON() {
	logger := slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{
		Level:       slog.LevelWarn,
		ReplaceAttr: sameInEveryRun,
	}))
	eventfulDay(walletauth.LogEvents(logger))
	// Output:
	// {"level":"WARN","msg":"walletauth","event":"refresh failed","reason":"rejected","key":"bob","user_id":"bob","attempts":1,"error":"walletauth: refresh failed: status 503 Service Unavailable"}
	// {"level":"ERROR","msg":"walletauth","event":"session over","reason":"rejected","key":"cyd","user_id":"cyd","attempts":1,"error":"walletauth: refresh failed: status 401 Unauthorized: \"No valid API key provided or invalid session token\": the session is over: log in again"}
}

// sameInEveryRun leaves out what differs from run to run. A duration is text
// like 250ms in a TextHandler and a number of nanoseconds in a JSONHandler.
func sameInEveryRun(_ []string, a slog.Attr) slog.Attr {
	switch a.Key {
	case slog.TimeKey, "session_id", "duration":
		return slog.Attr{}
	}
	return a
}

// eventfulDay is a day with an access token that is revoked, a refresh that
// fails as WalletKit is overloaded, and a session that ends.
func eventfulDay(onEvent func(context.Context, walletauth.Event)) {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	store := &walletauth.MemoryStore{}
	client := &http.Client{Transport: &walletauth.Transport{
		Store: store, BaseURL: srv.URL, OnEvent: onEvent,
		RefreshTimeout: 100 * time.Millisecond, // so that one 503 is enough
	}}
	for _, user := range []string{"ada", "bob", "cyd"} {
		ctx := walletauth.WithKey(context.Background(), user)
		if err := walletauth.Save(ctx, store, user, srv.Login(user)); err != nil {
			log.Fatal(err)
		}
		switch srv.RevokeAccess(user); user {
		case "bob":
			srv.FailRefresh(1, walletauthtest.Fault{Status: http.StatusServiceUnavailable})
		case "cyd":
			srv.RevokeSessions(user)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/wallets", nil)
		if err != nil {
			log.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
	}
}
