package recipes

import (
	"context"
	"net/http"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/walletauth/walletauth"
)

// oldLogin is what a program kept of a login so far.
type oldLogin struct {
	SessionID, ProjectID, UserID string
	RefreshToken                 string
}

// takeOver saves an old login as a session, once. What was not kept does not
// matter: a token that counts as expired is refreshed at its first use, and
// that answer has everything.
func takeOver(ctx context.Context, store walletauth.TokenStore, key string, old oldLogin) error {
	now := time.Now()
	return walletauth.Save(ctx, store, key, &walletauth.Session{
		ID:                    old.SessionID,
		CreatedAt:             now,
		ProjectID:             old.ProjectID,
		UserID:                old.UserID,
		AccessToken:           "unknown",
		AccessTokenExpiresAt:  now.Add(-time.Second),
		RefreshToken:          old.RefreshToken,
		RefreshTokenExpiresAt: now.AddDate(0, 0, 30), // at most; WalletKit knows better
	})
}

func TestTakeOver(t *testing.T) {
	s := walletKit.Login("jon")
	transport := &walletauth.Transport{Store: &walletauth.MemoryStore{}}
	if err := takeOver(t.Context(), transport.Store, "", oldLogin{s.ID, s.ProjectID, s.UserID, s.RefreshToken}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := listWallets(t.Context(), &http.Client{Transport: transport}); err != nil {
			t.Error(err)
		}
	}
	if n := walletKit.Refreshes(s.ID); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
}

// tokenSource is for a library that wants an oauth2.TokenSource. Do not wrap it
// in oauth2.ReuseTokenSource, which would keep a token that has been refreshed
// elsewhere: Session costs next to nothing while the token is fresh.
type tokenSource struct {
	ctx       context.Context
	transport *walletauth.Transport
}

func (s tokenSource) Token() (*oauth2.Token, error) {
	session, err := s.transport.Session(s.ctx)
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: session.AccessToken, Expiry: session.AccessTokenExpiresAt}, nil
}

func TestTokenSource(t *testing.T) {
	transport := loggedIn(t, "", "kim")
	var source oauth2.TokenSource = tokenSource{t.Context(), transport}
	token, err := source.Token()
	if err != nil {
		t.Fatal(err)
	}
	session, err := transport.Store.Load(t.Context(), "")
	if err != nil || token.AccessToken != session.AccessToken || !token.Valid() {
		t.Errorf("valid: %t, %v", token.Valid(), err)
	}
}
