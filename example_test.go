package walletauth_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// The examples call a stand-in for the API, so that they run. In a program
// BaseURL is walletauth.Testnet or walletauth.Mainnet.

// printStatus prints the status that a GET request is answered with, or why it is not.
func printStatus(ctx context.Context, client *http.Client, url string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := client.Do(req)
	switch {
	case errors.Is(err, walletauth.ErrNoSession):
		fmt.Println("log in first")
	case errors.Is(err, walletauth.ErrSessionExpired):
		fmt.Println("log in again")
	case err != nil:
		fmt.Println("try later:", err)
	default:
		defer resp.Body.Close()
		fmt.Println(resp.Status)
	}
}

// The Transport goes under the HTTP client that a program has already. After a
// login the session is saved once; from then on requests carry its token, and
// it is refreshed before it expires, or when the API answers 401.
func Example() {
	srv := walletauthtest.NewServer(walletauthtest.Config{ProjectID: "my-project"})
	defer srv.Close()
	ctx := context.Background()

	store := &walletauth.MemoryStore{}
	client := &http.Client{Transport: &walletauth.Transport{
		Store:     store,
		ProjectID: "my-project",
		BaseURL:   srv.URL,
	}}
	printStatus(ctx, client, srv.URL+"/wallets")

	session := srv.Login("ada") // what the API answers to a login
	if err := walletauth.Save(ctx, store, "", session); err != nil {
		log.Fatal(err)
	}
	printStatus(ctx, client, srv.URL+"/wallets")

	srv.RevokeAccess("ada") // the request gets a 401, and is sent again
	printStatus(ctx, client, srv.URL+"/wallets")
	// Output:
	// log in first
	// 200 OK
	// 200 OK
}

// A server that acts for many users has one Transport and one store. The
// context of a request says whose session it uses.
func ExampleWithKey() {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	srv.Handle("GET /whoami", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println("the API sees", walletauthtest.UserID(r))
	}))

	store := &walletauth.MemoryStore{}
	client := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: srv.URL}}
	for _, user := range []string{"ada", "bob"} {
		ctx := walletauth.WithKey(context.Background(), user)
		if err := walletauth.Save(ctx, store, user, srv.Login(user)); err != nil {
			log.Fatal(err)
		}
		printStatus(ctx, client, srv.URL+"/whoami")
	}
	printStatus(walletauth.WithKey(context.Background(), "eve"), client, srv.URL+"/whoami")
	// Output:
	// the API sees ada
	// 200 OK
	// the API sees bob
	// 200 OK
	// log in first
}

// userTable stands for a table of the program's database.
type userTable struct {
	mu   sync.Mutex // guards rows
	rows map[string][]byte
}

func (t *userTable) get(key string) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rows[key]
}

func (t *userTable) put(key string, row []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows[key] = row
}

// Two functions make a store for one process of what a program has already, a
// table for example.
func ExampleFuncStore() {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()

	var codec walletauth.JSONCodec // NewSealedCodec makes one that encrypts
	users := &userTable{rows: make(map[string][]byte)}
	store := &walletauth.FuncStore{
		LoadFunc: func(ctx context.Context, key string) (*walletauth.Session, error) {
			row := users.get(key)
			if row == nil {
				return nil, fmt.Errorf("user %s: %w", key, walletauth.ErrNoSession)
			}
			return codec.Decode(key, row)
		},
		SaveFunc: func(ctx context.Context, key string, s *walletauth.Session) error {
			if s == nil { // logged out
				users.put(key, nil)
				return nil
			}
			row, err := codec.Encode(key, s)
			if err == nil {
				users.put(key, row)
			}
			return err
		},
	}

	ctx := walletauth.WithKey(context.Background(), "ada")
	if err := walletauth.Save(ctx, store, "ada", srv.Login("ada")); err != nil {
		log.Fatal(err)
	}
	login := string(users.get("ada"))
	client := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: srv.URL}}
	srv.RevokeAccess("ada")
	printStatus(ctx, client, srv.URL+"/wallets")
	fmt.Println("the table has a newer session:", string(users.get("ada")) != login)
	// Output:
	// 200 OK
	// the table has a newer session: true
}

// KeepAlive refreshes without any traffic, so that the first request after a
// quiet time need not wait.
func ExampleTransport_KeepAlive() {
	srv := walletauthtest.NewServer(walletauthtest.Config{AccessTokenTTL: 200 * time.Millisecond})
	defer srv.Close()
	ctx, cancel := context.WithCancel(context.Background())

	store := &walletauth.MemoryStore{}
	if err := walletauth.Save(ctx, store, "", srv.Login("ada")); err != nil {
		log.Fatal(err)
	}
	refreshes := make(chan string, 100)
	transport := &walletauth.Transport{
		Store:   store,
		BaseURL: srv.URL,
		OnEvent: func(_ context.Context, e walletauth.Event) {
			if e.Type == walletauth.RefreshSucceeded {
				refreshes <- e.UserID
			}
		},
	}
	ended := make(chan error)
	go func() { ended <- transport.KeepAlive(ctx) }()

	fmt.Println("refreshed for", <-refreshes)
	fmt.Println("refreshed for", <-refreshes)
	cancel()
	fmt.Println(<-ended)
	// Output:
	// refreshed for ada
	// refreshed for ada
	// context canceled
}

// As text, of a day on which ada's access token is revoked, bob's refresh fails
// as WalletKit is overloaded, and cyd's session ends. The warning "session over"
// is a user who has to log in again, the others are failures that may pass by
// themselves. At level info there is nothing else.
func ExampleLogEvents() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level:       slog.LevelDebug, // or Info, in production
		ReplaceAttr: sameInEveryRun,  // for the example alone
	}))
	eventfulDay(&walletauth.Transport{
		Store:   &walletauth.MemoryStore{},
		OnEvent: walletauth.LogEvents(logger),
	})
	// Output:
	// level=DEBUG msg=walletauth event="refresh began" reason=rejected key=ada user_id=ada
	// level=DEBUG msg=walletauth event="refresh succeeded" reason=rejected key=ada user_id=ada attempts=1
	// level=DEBUG msg=walletauth event="request replayed" key=ada user_id=ada
	// level=DEBUG msg=walletauth event="refresh began" reason=rejected key=bob user_id=bob
	// level=WARN msg=walletauth event="refresh failed" reason=rejected key=bob user_id=bob attempts=1 error="walletauth: refresh failed: status 503 Service Unavailable: retry after 1m0s"
	// level=DEBUG msg=walletauth event="refresh began" reason=rejected key=cyd user_id=cyd
	// level=WARN msg=walletauth event="session over" reason=rejected key=cyd user_id=cyd attempts=1 error="walletauth: refresh failed: status 401 Unauthorized: \"No valid API key provided or invalid session token\": the session is over: log in again"
}

// The same day as JSON, from level info on.
func ExampleLogEvents_json() {
	logger := slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: sameInEveryRun, // for the example alone
	}))
	eventfulDay(&walletauth.Transport{
		Store:   &walletauth.MemoryStore{},
		OnEvent: walletauth.LogEvents(logger),
	})
	// Output:
	// {"level":"WARN","msg":"walletauth","event":"refresh failed","reason":"rejected","key":"bob","user_id":"bob","attempts":1,"error":"walletauth: refresh failed: status 503 Service Unavailable: retry after 1m0s"}
	// {"level":"WARN","msg":"walletauth","event":"session over","reason":"rejected","key":"cyd","user_id":"cyd","attempts":1,"error":"walletauth: refresh failed: status 401 Unauthorized: \"No valid API key provided or invalid session token\": the session is over: log in again"}
}

// sameInEveryRun leaves out what differs from run to run.
func sameInEveryRun(_ []string, a slog.Attr) slog.Attr {
	switch a.Key {
	case slog.TimeKey, "session_id", "duration":
		return slog.Attr{}
	}
	return a
}

// eventfulDay is a day on which ada's access token is revoked, bob's refresh
// fails as WalletKit is overloaded, and cyd's session ends.
func eventfulDay(transport *walletauth.Transport) {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	transport.BaseURL = srv.URL
	client := &http.Client{Transport: transport}
	for _, user := range []string{"ada", "bob", "cyd"} {
		ctx := walletauth.WithKey(context.Background(), user)
		if err := walletauth.Save(ctx, transport.Store, user, srv.Login(user)); err != nil {
			log.Fatal(err)
		}
		switch srv.RevokeAccess(user); user {
		case "bob":
			srv.FailRefresh(1, walletauthtest.Fault{Status: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"60"}}})
		case "cyd":
			srv.RevokeSessions(user)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/wallets", nil)
		if err != nil {
			log.Fatal(err)
		}
		resp, err := client.Do(req)
		if errors.Is(err, walletauth.ErrSessionExpired) {
			continue // cyd has to log in again
		}
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
	}
}

// With CaptureLogin the program's own calls to log in and out are all it takes:
// their answers go to the store as they come by.
func ExampleTransport_captureLogin() {
	srv := walletauthtest.NewServer(walletauthtest.Config{ProjectID: "my-project"})
	defer srv.Close()
	ctx := context.Background()

	client := &http.Client{Transport: &walletauth.Transport{
		Store:        &walletauth.MemoryStore{},
		ProjectID:    "my-project", // there is no session yet that could tell
		BaseURL:      srv.URL,
		CaptureLogin: true,
	}}
	post := func(path string) {
		resp, err := client.Post(srv.URL+path, "application/json", nil)
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
	}
	post("/users/login-anonymously")
	printStatus(ctx, client, srv.URL+"/wallets")
	post("/users/logout")
	printStatus(ctx, client, srv.URL+"/wallets")
	// Output:
	// 200 OK
	// log in first
}

// Package walletauthtest has a stand-in for the API that is strict, can be made
// to fail, and shares a clock with the Transport, so that a test of hours takes
// no time.
func Example_testing() {
	mock := clock.NewMock()
	srv := walletauthtest.NewServer(walletauthtest.Config{Clock: mock, AccessTokenTTL: 5 * time.Minute})
	defer srv.Close()
	ctx := context.Background()

	store := &walletauth.MemoryStore{}
	client := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: srv.URL, Clock: mock}}
	if err := walletauth.Save(ctx, store, "", srv.Login("ada")); err != nil {
		log.Fatal(err)
	}
	for range 3 {
		mock.Add(time.Hour) // the token expires
		printStatus(ctx, client, srv.URL+"/wallets")
	}
	fmt.Println("refreshes:", srv.Stats().Refreshes)
	fmt.Println("what a correct client never does:", len(srv.Violations()))
	// Output:
	// 200 OK
	// 200 OK
	// 200 OK
	// refreshes: 3
	// what a correct client never does: 0
}
