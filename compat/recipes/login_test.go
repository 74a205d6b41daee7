package recipes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// newLoginClient returns a client whose logins and logouts reach the store.
func newLoginClient(store walletauth.TokenStore) *http.Client {
	return &http.Client{Transport: &walletauth.Transport{
		Store:        store,
		ProjectID:    "my-project", // there is no session yet that could tell
		BaseURL:      walletauth.Testnet,
		CaptureLogin: true,
	}}
}

func loginAnonymously(ctx context.Context, client *http.Client) error {
	return post(ctx, client, "/users/login-anonymously", nil, nil)
}

// loginWithEmail has a code sent to an address and asks the user for it.
func loginWithEmail(ctx context.Context, client *http.Client, email string, ask func() string) error {
	var begun struct {
		UserID string `json:"user_id"`
	}
	if err := post(ctx, client, "/users/login-with-email", map[string]string{"email": email}, &begun); err != nil {
		return err
	}
	return post(ctx, client, "/users/verify-login",
		map[string]string{"user_id": begun.UserID, "verification_code": ask()}, nil)
}

func logout(ctx context.Context, client *http.Client) error {
	return post(ctx, client, "/users/logout", nil, nil)
}

// post sends in as JSON and reads the answer into out. Either may be nil.
func post(ctx context.Context, client *http.Client, path string, in, out any) error {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, walletauth.Testnet+path, &body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("POST %s: %s", path, resp.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

func finish(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return err
}

func TestLoginAndLogoutThroughTheSameClient(t *testing.T) {
	client := newLoginClient(&walletauth.MemoryStore{})
	byEmail := func(ctx context.Context, client *http.Client) error {
		return loginWithEmail(ctx, client, "ada@example.com", func() string { return walletauthtest.VerificationCode })
	}
	for key, login := range map[string]func(context.Context, *http.Client) error{"a": loginAnonymously, "b": byEmail} {
		ctx := walletauth.WithKey(t.Context(), key)
		for _, call := range []func(context.Context, *http.Client) error{login, listWallets, logout} {
			if err := call(ctx, client); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		}
		if err := listWallets(ctx, client); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%s: after the logout: %v", key, err)
		}
	}
}

// forget logs a user out here whatever the server says: the session is deleted
// first, and told to end afterwards.
func forget(ctx context.Context, client *http.Client, transport *walletauth.Transport, key string) error {
	session, err := transport.Session(walletauth.WithKey(ctx, key))
	if errors.Is(err, walletauth.ErrNoSession) {
		return nil
	}
	if err := walletauth.Delete(ctx, transport.Store, key); err != nil {
		return err
	}
	if err != nil {
		return nil // there is no token left to log out with
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, walletauth.Testnet+"/users/logout", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+session.AccessToken) // a header of the caller's own is kept
	req.Header.Set("X-WalletKit-Project-ID", session.ProjectID)
	req.Header.Set("X-WalletKit-Token-Source", "walletkit")
	resp, err := client.Do(req)
	if err == nil {
		err = resp.Body.Close()
	}
	return err
}

func TestForget(t *testing.T) {
	transport := loggedIn(t, "", "forgetful")
	client := &http.Client{Transport: transport}
	for range 2 {
		if err := forget(t.Context(), client, transport, ""); err != nil {
			t.Error(err)
		}
	}
	if n := len(walletKit.Sessions("forgetful")); n != 0 {
		t.Errorf("%d sessions left", n)
	}
}

// explain says what a user can do about an error of a call.
func explain(err error) (status int, message string) {
	var refused *walletauth.RefreshError
	switch {
	case errors.Is(err, walletauth.ErrNoSession):
		return http.StatusUnauthorized, "Log in to see your wallets."
	case errors.Is(err, walletauth.ErrSessionExpired):
		return http.StatusUnauthorized, "Your login has ended. Log in again."
	case errors.As(err, &refused), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, "WalletKit cannot be reached. Try again in a minute."
	default:
		return http.StatusBadGateway, "That did not work."
	}
}

func TestExplain(t *testing.T) {
	transport := loggedIn(t, "over", "explained")
	client := &http.Client{Transport: transport}
	ctx := walletauth.WithKey(t.Context(), "nobody")
	if status, message := explain(listWallets(ctx, client)); status != 401 || !strings.Contains(message, "Log in to") {
		t.Error(status, message)
	}
	if status, message := explain(&walletauth.RefreshError{StatusCode: 503}); status != 503 {
		t.Error(status, message)
	}
	if status, message := explain(fmt.Errorf("call: %w", walletauth.ErrSessionExpired)); status != 401 || !strings.Contains(message, "again") {
		t.Error(status, message)
	}
	if status, message := explain(io.ErrUnexpectedEOF); status != 502 {
		t.Error(status, message)
	}
}

// onOver returns an OnEvent that marks a user, for whom the next page asks to
// log in and the next mail says why.
func onOver(mark func(ctx context.Context, key string)) func(context.Context, walletauth.Event) {
	return func(ctx context.Context, e walletauth.Event) {
		if e.Type == walletauth.SessionOver {
			mark(ctx, e.Key)
		}
	}
}

// relogin is the way back. No restart is needed, and requests that come after
// Save use the new session.
func relogin(ctx context.Context, store walletauth.TokenStore, key string, login func(context.Context) (*walletauth.Session, error)) error {
	session, err := login(ctx)
	if err != nil {
		return err
	}
	return walletauth.Save(ctx, store, key, session)
}

func TestSessionOverAndBack(t *testing.T) {
	transport := loggedIn(t, "dee", "dee")
	var marked []string
	transport.OnEvent = onOver(func(_ context.Context, key string) { marked = append(marked, key) })
	client := &http.Client{Transport: transport}
	ctx := walletauth.WithKey(t.Context(), "dee")

	walletKit.RevokeSessions("dee")
	for range 3 {
		if err := listWallets(ctx, client); err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("error %v", err)
		}
	}
	if !slices.Equal(marked, []string{"dee"}) {
		t.Errorf("marked %v, want dee once", marked)
	}
	if err := relogin(ctx, transport.Store, "dee", func(context.Context) (*walletauth.Session, error) {
		return walletKit.Login("dee"), nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := listWallets(ctx, client); err != nil {
		t.Error(err)
	}
}
