package walletauthtest_test

import (
	"net/http"
	"testing"

	"github.com/walletauth/walletauth/walletauthtest"
)

func TestListsWalletsOfALogin(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	session := srv.Login("user-1")
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/wallets", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-WalletKit-Project-ID", "project")
	req.Header.Set("X-WalletKit-Token-Source", "walletkit")
	req.Header.Set("Authorization", "Bearer "+session.AccessToken)
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("status %s, want 200", resp.Status)
	}
}
