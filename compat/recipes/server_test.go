package recipes

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/pgxstore"
	"github.com/walletauth/walletauth/redisstore"
)

// server acts for the users who are logged in to it.
type server struct {
	client *http.Client               // over one Transport, for all users
	userOf func(*http.Request) string // "" if nobody is logged in
}

func (s *server) wallets(w http.ResponseWriter, r *http.Request) {
	user := s.userOf(r)
	if user == "" {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	ctx := walletauth.WithKey(r.Context(), user)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, walletauth.Testnet+"/wallets", nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	resp, err := s.client.Do(req)
	if err != nil {
		status, message := explain(err)
		http.Error(w, message, status)
		return
	}
	defer resp.Body.Close()
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // fails if the browser has left
}

func userFromHeader(r *http.Request) string { return r.Header.Get("X-User") }

func getAs(handler http.HandlerFunc, user string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.Header.Set("X-User", user)
	answer := httptest.NewRecorder()
	handler(answer, req)
	return answer
}

func TestServerForManyUsers(t *testing.T) {
	transport := loggedIn(t, "eva", "eva")
	if err := walletauth.Save(t.Context(), transport.Store, "fay", walletKit.Login("fay")); err != nil {
		t.Fatal(err)
	}
	s := &server{client: &http.Client{Transport: transport}, userOf: userFromHeader}
	eva, fay := walletKit.User("eva").Requests, walletKit.User("fay").Requests
	for user, want := range map[string]int{"eva": 200, "fay": 200, "": 401, "stranger": 401} {
		if got := getAs(s.wallets, user).Code; got != want {
			t.Errorf("%q: %d, want %d", user, got, want)
		}
	}
	eva, fay = walletKit.User("eva").Requests-eva, walletKit.User("fay").Requests-fay
	if eva != 1 || fay != 1 {
		t.Errorf("%d requests as eva and %d as fay, want 1 and 1", eva, fay)
	}
}

// inRedis shares sessions by Redis.
func inRedis(client redis.UniversalClient, sealingKey []byte) (*redisstore.Store, error) {
	codec, err := walletauth.NewSealedCodec(sealingKey) // 32 random bytes, the same on all machines
	if err != nil {
		return nil, err
	}
	return &redisstore.Store{Client: client, Codec: codec}, nil
}

// inPostgres shares sessions by PostgreSQL.
func inPostgres(ctx context.Context, pool *pgxpool.Pool, sealingKey []byte) (*pgxstore.Store, error) {
	codec, err := walletauth.NewSealedCodec(sealingKey) // 32 random bytes, the same on all machines
	if err != nil {
		return nil, err
	}
	store := &pgxstore.Store{Pool: pool, Codec: codec}
	return store, store.Migrate(ctx) // makes the table if it is missing
}

// stopWorker ends what a worker has begun, in this order: the last refreshed
// session needs the store.
func stopWorker(ctx context.Context, transport *walletauth.Transport, store io.Closer) error {
	err := shutdown(ctx, transport)
	if closed := store.Close(); err == nil {
		err = closed
	}
	return err
}

// That they work is for their own tests to say.
var _ = inPostgres

func TestWorkers(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // connects when it is used
	defer client.Close()
	store, err := inRedis(client, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if err := stopWorker(t.Context(), &walletauth.Transport{Store: store}, store); err != nil {
		t.Error(err)
	}
}

// browserToken gives a page an access token to call WalletKit with. The refresh
// token never leaves the server, since two who refresh spend each other's.
func browserToken(transport *walletauth.Transport, userOf func(*http.Request) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		user := userOf(r)
		if user == "" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		session, err := transport.Session(walletauth.WithKey(r.Context(), user))
		if err != nil {
			status, message := explain(err)
			http.Error(w, message, status)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(map[string]any{ // fails if the browser has left
			"access_token": session.AccessToken,
			"expires_at":   session.AccessTokenExpiresAt,
		})
	}
}

func TestBrowserToken(t *testing.T) {
	transport := loggedIn(t, "gil", "gil")
	answer := getAs(browserToken(transport, userFromHeader), "gil")
	var got map[string]any
	if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	session, err := transport.Store.Load(t.Context(), "gil")
	if err != nil || len(got) != 2 || got["access_token"] != session.AccessToken {
		t.Errorf("%v", answer)
	}
	if err := walletauth.Save(t.Context(), transport.Store, "", session); err != nil { // which nobody must get
		t.Fatal(err)
	}
	for _, user := range []string{"stranger", ""} {
		if answer := getAs(browserToken(transport, userFromHeader), user); answer.Code != 401 {
			t.Errorf("%q: %v", user, answer)
		}
	}
}
