package otelwalletauth_test

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/otelwalletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// readme holds the README's code line for line.
func readme(store walletauth.TokenStore) (*walletauth.Transport, error) {
	onEvent, err := otelwalletauth.Instrumentation{}.OnEvent() // the global providers
	if err != nil {
		return nil, err
	}
	transport := &walletauth.Transport{
		Store:   store,
		OnEvent: otelwalletauth.Tee(onEvent, walletauth.LogEvents(nil)),
	}
	return transport, nil
}

func TestReadmeIsThisCode(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```go\n")
	block, _, _ = strings.Cut(block, "```")
	for line := range strings.Lines(block) {
		if !strings.Contains(string(code), line) {
			t.Errorf("not compiled: %s", line)
		}
	}
}

func TestReadmeCodeWorks(t *testing.T) {
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
	store := &walletauth.MemoryStore{}
	if err := walletauth.Save(t.Context(), store, "", srv.Login(user)); err != nil {
		t.Fatal(err)
	}
	transport, err := readme(store)
	if err != nil {
		t.Fatal(err)
	}
	transport.BaseURL, transport.Base = srv.URL, srv.RoundTripper()
	srv.RevokeAccess(user)
	resp, err := (&http.Client{Transport: transport}).Get(srv.URL + "/wallets")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
}
