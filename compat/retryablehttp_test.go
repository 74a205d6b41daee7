package compat

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// retrying puts the retries outside: each attempt then goes out with the
// session as it is by then.
//
// Care: not the other way round. As Transport.Base a retrying client would
// retry refreshes too, which the Transport does itself, within RefreshTimeout
// and as long as the server asks: the two would multiply.
//
// Care: the default policy takes any error for a temporary one, and waits for seconds
// between attempts that cannot succeed. A user who has to log in should hear of it
// at once.
func retrying(transport *walletauth.Transport) *retryablehttp.Client {
	client := retryablehttp.NewClient()
	client.HTTPClient = &http.Client{Transport: transport}
	client.Logger = nil
	client.RetryWaitMin = time.Millisecond // a program leaves this out
	client.CheckRetry = func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		if errors.Is(err, walletauth.ErrNoSession) || errors.Is(err, walletauth.ErrSessionExpired) {
			return false, err
		}
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	return client
}

func TestRetryableHTTPOutside(t *testing.T) {
	api := newStandIn(t)
	client := retrying(api.transport())

	api.outlive(t, func(ctx context.Context) error {
		api.Fail(walletauthtest.CreateWallet, 2, walletauthtest.Fault{Status: http.StatusServiceUnavailable})
		req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodPost, api.URL+"/wallets",
			[]byte(`{"network": "Base", "name": "savings", "control_mode": "developer"}`))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		return done(client.Do(req))
	})
	// Five calls of three attempts, and one more for the 401.
	if n := api.Requests(walletauthtest.CreateWallet); n != 16 {
		t.Errorf("%d requests, want 16", n)
	}
}

func TestRetryableHTTPDoesNotRetryWhatNeedsTheUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
		store := &walletauth.MemoryStore{}
		if err := walletauth.Save(t.Context(), store, "", srv.Login(user)); err != nil {
			t.Fatal(err)
		}
		client := retrying(&walletauth.Transport{Store: store, BaseURL: srv.URL, Base: srv.RoundTripper()})
		attempts := 0
		client.RequestLogHook = func(retryablehttp.Logger, *http.Request, int) { attempts++ }

		srv.RevokeSessions(user)
		<-time.After(lifetime) // the bubble's, which takes no time
		_, err := client.Get(srv.URL + "/wallets")
		if !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("%v, want ErrSessionExpired", err)
		}
		if n := srv.Requests(walletauthtest.RefreshToken); attempts != 1 || n != 1 {
			t.Errorf("%d attempts and %d refreshes sent, want 1 and 1", attempts, n)
		}
	})
}
