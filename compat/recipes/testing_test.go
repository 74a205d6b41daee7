package recipes

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestWalletsAreListedAfterARevocation(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t}) // a stand-in; t fails if a request is wrong
	store := &walletauth.MemoryStore{}
	if err := walletauth.Save(t.Context(), store, "", srv.Login("ada")); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: srv.URL}}

	srv.RevokeAccess("ada")
	resp, err := client.Get(srv.URL + "/wallets") // the program under test
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || srv.Stats().Refreshes != 1 {
		t.Errorf("%s after %d refreshes", resp.Status, srv.Stats().Refreshes)
	}
}

func TestADayTakesNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
		store := &walletauth.MemoryStore{}
		if err := walletauth.Save(t.Context(), store, "", srv.Login("ada")); err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &walletauth.Transport{
			Store:   store,
			BaseURL: srv.URL,
			Base:    srv.RoundTripper(), // in memory: a bubble has no sockets
		}}
		for range 24 {
			<-time.After(time.Hour) // the bubble's
			resp, err := client.Get(srv.URL + "/wallets")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		if n := srv.Stats().Refreshes; n != 24 {
			t.Errorf("%d refreshes, want one for each hour", n)
		}
	})
}
