package compat

import (
	"context"
	"fmt"
	"net/http"
	"testing"
)

// Over HTTP/2, fifty requests share a connection and find their token expired
// or revoked at once. One refresh serves them all, on the same connection.
func TestHTTP2(t *testing.T) {
	api := newUnstarted(t)
	api.StartTLS()
	transport := api.transport()
	transport.Base = api.Client().Transport // trusts the certificate; a program leaves it out
	client := &http.Client{Transport: transport}

	call := func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL+"/wallets", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err == nil && resp.ProtoMajor != 2 {
			err = fmt.Errorf("it is %s", resp.Proto)
		}
		return done(resp, err)
	}
	api.outlive(t, func(ctx context.Context) error {
		return atOnce(make([]struct{}, 50), func(struct{}) error { return call(ctx) })
	})
}
