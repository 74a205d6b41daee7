package compat

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/compat/internal/walletkit"
	"github.com/walletauth/walletauth/walletauthtest"
)

// A client that oapi-codegen generated takes an http.Client and needs nothing
// else.
//
// Care: in the OpenAPI document the project and the token must be security
// schemes. A header parameter becomes a field that every call has to fill in,
// and what the caller sets wins: with an Authorization of its own a request is
// never refreshed.
func TestGeneratedClientNeedsOnlyAnHTTPClient(t *testing.T) {
	api := newStandIn(t)
	client, err := walletkit.NewClientWithResponses(api.URL,
		walletkit.WithHTTPClient(&http.Client{Transport: api.transport()}))
	if err != nil {
		t.Fatal(err)
	}

	made := 0
	api.outlive(t, func(ctx context.Context) error {
		created, err := client.CreateWalletWithResponse(ctx, walletkit.NewWallet{
			Network: walletkit.Base, Name: "savings", ControlMode: walletkit.Developer,
		})
		if err != nil || created.JSON200 == nil {
			return errors.Join(err, fmt.Errorf("create: %v", created))
		}
		made++
		network := walletkit.Base
		listed, err := client.ListWalletsWithResponse(ctx, &walletkit.ListWalletsParams{Network: &network})
		if err != nil || listed.JSON200 == nil {
			return errors.Join(err, fmt.Errorf("list: %v", listed))
		}
		if n := len(*listed.JSON200); n != made {
			return fmt.Errorf("%d wallets, want %d", n, made)
		}
		return nil
	})
	if n := api.Stats().Unauthorized; n != 1 {
		t.Errorf("%d answers 401, want the one after the revocation", n)
	}
}

// With CaptureLogin the generated calls for logging in and out are all that a
// program needs. Their answers go to the store under the key of the call's
// context.
func TestGeneratedClientLogsInAndOut(t *testing.T) {
	api := newStandIn(t)
	transport := api.transport()
	transport.CaptureLogin = true
	client, err := walletkit.NewClientWithResponses(api.URL,
		walletkit.WithHTTPClient(&http.Client{Transport: transport}))
	if err != nil {
		t.Fatal(err)
	}
	ctx := walletauth.WithKey(t.Context(), "bob's laptop")

	begun, err := client.LoginWithEmailWithResponse(ctx, walletkit.LoginWithEmailJSONRequestBody{Email: "bob@example.com"})
	if err != nil || begun.JSON200 == nil {
		t.Fatalf("login with e-mail: %v, %v", begun, err)
	}
	bob := begun.JSON200.UserId
	verified, err := client.VerifyLoginWithResponse(ctx, walletkit.VerifyLoginJSONRequestBody{
		UserId: bob, VerificationCode: walletauthtest.VerificationCode,
	})
	if err != nil || verified.JSON200 == nil {
		t.Fatalf("verify: %v, %v", verified, err)
	}
	api.outlive(t, func(context.Context) error {
		resp, err := client.ListWallets(ctx, nil)
		return done(resp, err)
	}, bob)

	if err := done(client.Logout(ctx)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.ListWallets(ctx, nil); !errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("after the logout: %v, want ErrNoSession", err)
	}
}
