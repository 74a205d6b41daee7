package recipes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/walletauthtest"
)

// oldLogin is what a program has kept of a login so far.
type oldLogin struct {
	SessionID, ProjectID, UserID string
	RefreshToken                 string
}

// takeOver stores an old login as a session, unless there is one already: another
// process may have stored it and refreshed it since, and the old refresh token works
// no more. Fields that were not kept do not matter: a token that has expired is
// refreshed at its first use, and the reply has everything.
func takeOver(ctx context.Context, store walletauth.TokenStore, key string, old oldLogin) error {
	now := time.Now()
	_, err := walletauth.SaveIfAbsent(ctx, store, key, &walletauth.Session{
		ID:                    old.SessionID,
		CreatedAt:             now,
		ProjectID:             old.ProjectID,
		UserID:                old.UserID,
		AccessToken:           "unknown",
		AccessTokenExpiresAt:  now.Add(-time.Second),
		RefreshToken:          old.RefreshToken,
		RefreshTokenExpiresAt: now.AddDate(0, 0, 30), // a guess; WalletKit decides
	})
	return err
}

// moveAsProcess is a program that moves its login and uses it. It waits for its
// standard input to end, so that several of them begin together.
func moveAsProcess() {
	var from struct {
		Dir, API string
		Old      oldLogin
	}
	ctx := context.Background()
	err := json.Unmarshal([]byte(os.Getenv("MOVE_FROM")), &from)
	if err == nil {
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	transport := &walletauth.Transport{Store: &filestore.Store{Dir: from.Dir}, BaseURL: from.API}
	if err == nil {
		err = takeOver(ctx, transport.Store, "", from.Old)
	}
	if err == nil {
		var resp *http.Response
		resp, err = (&http.Client{Transport: transport}).Get(from.API + "/wallets")
		err = finish(resp, err)
	}
	if err = errors.Join(err, transport.Shutdown(ctx)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// Processes that start together store the old login once, and one that starts after
// its refresh leaves the newer session alone.
func TestTakeOver(t *testing.T) {
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	s := api.Login("jon")
	from, err := json.Marshal(map[string]any{
		"Dir": filepath.Join(t.TempDir(), "sessions"), "API": api.URL,
		"Old": oldLogin{s.ID, s.ProjectID, s.UserID, s.RefreshToken},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, together := range []int{3, 1} {
		var processes sync.WaitGroup
		begin := make(chan struct{})
		for range together {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "MOVE_FROM="+string(from))
			var output bytes.Buffer
			cmd.Stdout, cmd.Stderr = &output, &output
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			processes.Go(func() {
				<-begin
				_ = stdin.Close() // it may have ended with an error
				if err := cmd.Wait(); err != nil {
					t.Errorf("%v: %s", err, &output)
				}
			})
		}
		close(begin)
		processes.Wait()
	}
	if stats := api.Stats(); stats.Refreshes != 1 || stats.RefreshesRefused != 0 {
		t.Errorf("%d refreshes and %d refused, want 1 and 0", stats.Refreshes, stats.RefreshesRefused)
	}
}

// tokenSource is for a library that wants an oauth2.TokenSource. Do not wrap it in
// oauth2.ReuseTokenSource, which would keep a token that was refreshed elsewhere.
// Session costs next to nothing while the token is fresh.
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
