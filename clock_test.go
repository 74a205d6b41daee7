package walletauth_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
)

// A Date that is wrong by years, of a proxy or a firewall, may cost refreshes
// but never the session.
func TestAWrongDateCostsNoSession(t *testing.T) {
	wrong := http.Header{"Date": {"Fri, 31 Dec 2100 23:59:59 GMT"}}
	for name, first := range map[string]answer{
		"of an answer to a refresh that failed": {status: 503, header: wrong},
		"of a page of a firewall":               {status: 403, header: wrong, body: []byte("<html>")},
		"of the new session itself":             {status: 200, header: wrong, body: encoded(t, freshSession())},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { checkWrongDate(t, first) })
		})
	}
}

func checkWrongDate(t *testing.T, first answer) {
	expired, store := freshSession(), &walletauth.MemoryStore{}
	expired.AccessToken, expired.RefreshToken, expired.AccessTokenExpiresAt = "old", "old", expired.CreatedAt
	if err := walletauth.Save(t.Context(), store, "", expired); err != nil {
		t.Fatal(err)
	}
	refreshes := 0
	tr := &walletauth.Transport{Store: store, RefreshTimeout: time.Millisecond, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
		if !strings.HasSuffix(req.URL.Path, "/users/refresh-token") {
			return answer{status: 200}.response(), nil
		}
		if refreshes++; refreshes == 1 {
			return first.response(), nil
		}
		return answer{status: 200, body: encoded(t, freshSession())}.response(), nil
	})}
	_, err := tr.RoundTrip(mustRequest(t, http.MethodGet, "/wallets"))
	if (err == nil) != (first.status == 200) {
		t.Errorf("the first request: %v", err)
	}
	time.Sleep(time.Minute) // of the bubble, for the cool-down
	if _, err := tr.RoundTrip(mustRequest(t, http.MethodGet, "/wallets")); err != nil {
		t.Errorf("a request later: %v", err)
	}
	if s, err := store.Load(t.Context(), ""); err != nil || *s != *freshSession() {
		t.Errorf("stored %v, %v", s, err)
	}
}
