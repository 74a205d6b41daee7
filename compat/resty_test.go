package compat

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/go-resty/resty/v2"
)

// Resty takes the http.Client.
//
// Care: leave SetAuthToken, SetBasicAuth and the Authorization header alone.
// What they set wins, and such a request is never refreshed. A retry condition on
// 401 is useless: Resty sees only a 401 that a new token did not help with.
func TestResty(t *testing.T) {
	api := newStandIn(t)
	client := resty.NewWithClient(&http.Client{Transport: api.transport()}).SetBaseURL(api.URL)

	api.outlive(t, func(ctx context.Context) error {
		resp, err := client.R().SetContext(ctx).
			SetBody(map[string]string{"network": "Base", "name": "savings", "control_mode": "developer"}).
			Post("/wallets")
		if err == nil && resp.IsError() {
			err = errors.New(resp.Status())
		}
		return err
	})
	if n := api.Stats().Unauthorized; n != 1 {
		t.Errorf("%d answers 401, want the one after the revocation", n)
	}
}
