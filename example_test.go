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

// printStatus sends a GET request and prints the response's status, or what to do
// about the error.
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

// The Transport goes under the HTTP client that a program already has. After a
// login the session is saved once. From then on requests carry its token, and it
// is refreshed before the token expires or when the API answers 401.
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

	session := srv.Login("ada") // the API's reply to a login
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

// Two functions make a store, for one process, from what a program already has: a
// table, for example.
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

// KeepAlive refreshes without traffic, so that the first request after a quiet
// time does not wait.
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

// The log, as text, of a day on which ada's access token is revoked, bob's refresh
// fails because WalletKit is overloaded, and cyd's session ends. Failures and
// sessions that are over are warnings; at level info there is nothing else.
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
// fails because WalletKit is overloaded, and cyd's session ends.
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
		if resp, err := client.Do(req); err == nil { // cyd gets an error
			resp.Body.Close()
		}
	}
}

// With CaptureLogin the program's own calls to log in and out are enough: a login's
// session is stored before the caller sees the response, and a logout deletes it.
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

// Logout logs the user out here first, whatever the network does, and then tells
// WalletKit. The error says what WalletKit was not told.
func ExampleTransport_Logout() {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	ctx := context.Background()

	store := &walletauth.MemoryStore{}
	transport := &walletauth.Transport{Store: store, BaseURL: srv.URL}
	if err := walletauth.Save(ctx, store, "", srv.Login("ada")); err != nil {
		log.Fatal(err)
	}
	srv.Fail(walletauthtest.Logout, 1, walletauthtest.Fault{Status: http.StatusServiceUnavailable})
	fmt.Println(transport.Logout(ctx))
	printStatus(ctx, &http.Client{Transport: transport}, srv.URL+"/wallets")
	// Output:
	// walletauth: logged out here, but WalletKit answered 503 Service Unavailable
	// log in first
}

// Status says what is known of a session without asking WalletKit: here that it
// has ended, after a request has found out.
func ExampleTransport_Status() {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	ctx := context.Background()

	store := &walletauth.MemoryStore{}
	transport := &walletauth.Transport{Store: store, BaseURL: srv.URL}
	printSession := func() {
		status, err := transport.Status(ctx)
		switch {
		case err != nil:
			fmt.Println("the store is down:", err)
		case status.Session == nil:
			fmt.Println("nobody is logged in")
		case status.Over != nil:
			fmt.Println(status.Session.UserID, "has to log in again")
		default:
			fmt.Println(status.Session.UserID, "is logged in")
		}
	}
	printSession()
	if err := walletauth.Save(ctx, store, "", srv.Login("ada")); err != nil {
		log.Fatal(err)
	}
	printSession()
	srv.RevokeSessions("ada")
	printStatus(ctx, &http.Client{Transport: transport}, srv.URL+"/wallets")
	printSession()
	// Output:
	// nobody is logged in
	// ada is logged in
	// log in again
	// ada has to log in again
}

// Renew is for a token that was refused outside of HTTP, in the first message of a
// WebSocket for example. However many ask, one refresh serves all.
func ExampleTransport_Renew() {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	ctx := context.Background()

	store := &walletauth.MemoryStore{}
	transport := &walletauth.Transport{Store: store, BaseURL: srv.URL}
	if err := walletauth.Save(ctx, store, "", srv.Login("ada")); err != nil {
		log.Fatal(err)
	}
	rejected, err := transport.Session(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for range 2 { // two sockets were refused with the same token
		session, err := transport.Renew(ctx, rejected)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("a new token:", session.AccessToken != rejected.AccessToken)
	}
	fmt.Println("refreshes:", srv.Stats().Refreshes)
	// Output:
	// a new token: true
	// a new token: true
	// refreshes: 1
}

// SaveIfAbsent moves a session in from elsewhere once: a process that starts later,
// or at the same time, keeps what is there, which may have been refreshed already.
func ExampleSaveIfAbsent() {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	ctx := context.Background()

	store := &walletauth.MemoryStore{}
	old := srv.Login("ada") // from the place where the program kept it so far
	for range 2 {
		stored, err := walletauth.SaveIfAbsent(ctx, store, "ada", old)
		fmt.Println(stored, err)
	}
	// Output:
	// true <nil>
	// false <nil>
}
