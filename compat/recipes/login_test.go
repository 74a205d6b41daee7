package recipes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

// logOut is for a program that logs out by itself. The user is logged out when it
// returns, whatever the error: that says what WalletKit or the store has not taken.
func logOut(ctx context.Context, transport *walletauth.Transport, key string) (note string) {
	err := transport.Logout(walletauth.WithKey(ctx, key))
	var store *walletauth.StoreError
	switch {
	case err == nil:
		return "You are logged out."
	case errors.As(err, &store): // tried again in the background, and by Shutdown
		return "You are logged out. The saved login is deleted as soon as the store can be reached."
	default:
		return "You are logged out here. WalletKit could not be told, and ends the session later."
	}
}

// fullStore is a store that takes nothing once it is full.
type fullStore struct {
	walletauth.MemoryStore
	full atomic.Bool
}

func (s *fullStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	return s.MemoryStore.Update(ctx, key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, current)
		if err == nil && next != current && s.full.Load() {
			err = errors.New("no space left on device")
		}
		return next, err
	})
}

func TestLogOut(t *testing.T) {
	const here = "You are logged out here. WalletKit could not be told, and ends the session later."
	for want, fault := range map[string]func(*fullStore){
		"You are logged out.": func(*fullStore) {},
		here: func(*fullStore) {
			walletKit.Fail(walletauthtest.Logout, 1, walletauthtest.Fault{Drop: true})
		},
		"You are logged out. The saved login is deleted as soon as the store can be reached.": func(s *fullStore) { s.full.Store(true) },
	} {
		store := &fullStore{}
		transport := &walletauth.Transport{Store: store, ProjectID: "my-project"}
		client := &http.Client{Transport: transport}
		ctx := walletauth.WithKey(t.Context(), "leaving")
		if err := walletauth.Save(ctx, store, "leaving", walletKit.Login("leaving")); err != nil {
			t.Fatal(err)
		}
		if err := listWallets(ctx, client); err != nil {
			t.Fatal(err)
		}
		fault(store)
		if got := logOut(ctx, transport, "leaving"); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		if err := listWallets(ctx, client); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%q: after the logout: %v", want, err)
		}
		store.full.Store(false)
		if err := transport.Shutdown(ctx); err != nil {
			t.Errorf("%q: %v", want, err)
		}
		if _, err := store.Load(ctx, "leaving"); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%q: after Shutdown the store has %v", want, err)
		}
	}
}

func TestLogOutOfASessionThatIsOver(t *testing.T) {
	transport := loggedIn(t, "old", "old")
	walletKit.RevokeSessions("old")
	ctx := walletauth.WithKey(t.Context(), "old")
	if err := listWallets(ctx, &http.Client{Transport: transport}); !errors.Is(err, walletauth.ErrSessionExpired) {
		t.Fatal(err)
	}
	for range 2 {
		if got := logOut(ctx, transport, "old"); got != "You are logged out." {
			t.Errorf("told %q", got)
		}
	}
}

// describe says what is known of the session under key, without asking WalletKit.
func describe(ctx context.Context, transport *walletauth.Transport, key string) string {
	status, err := transport.Status(walletauth.WithKey(ctx, key))
	switch {
	case err != nil:
		return "not known: the store is down"
	case status.Session == nil:
		return "not logged in"
	case status.Over != nil:
		return "login has ended"
	case status.Unsaved:
		return "logged in, not stored yet"
	case !status.RetryAt.IsZero():
		return "logged in, the refresh fails: tried again at " + status.RetryAt.Format(time.TimeOnly)
	default:
		return "logged in until " + status.Session.RefreshTokenExpiresAt.Format(time.DateOnly)
	}
}

// accounts prints a line for each of a program's keys. A store cannot list them: it
// holds no key, only hashes.
func accounts(ctx context.Context, w io.Writer, transport *walletauth.Transport, keys []string) {
	for _, key := range keys {
		fmt.Fprintf(w, "%-8s %s\n", key, describe(ctx, transport, key))
	}
}

func TestAccounts(t *testing.T) {
	transport := loggedIn(t, "work", "hal")
	store := transport.Store
	transport.Store = &walletauth.FuncStore{
		LoadFunc: func(ctx context.Context, key string) (*walletauth.Session, error) {
			if key == "broken" {
				return nil, errors.New("connection refused")
			}
			return store.Load(ctx, key)
		},
		SaveFunc: func(ctx context.Context, key string, s *walletauth.Session) error {
			return walletauth.Save(ctx, store, key, s)
		},
	}
	for _, key := range []string{"ended", "failing"} {
		if err := walletauth.Save(t.Context(), store, key, walletKit.Login(key)); err != nil {
			t.Fatal(err)
		}
	}
	client := &http.Client{Transport: transport}
	walletKit.RevokeSessions("ended")
	if err := listWallets(walletauth.WithKey(t.Context(), "ended"), client); err == nil {
		t.Error("no error of a session that is over")
	}
	walletKit.RevokeAccess("failing")
	walletKit.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: http.Header{"Retry-After": {"600"}}})
	if err := listWallets(walletauth.WithKey(t.Context(), "failing"), client); err == nil {
		t.Error("no 401 while the refresh fails")
	}
	var out strings.Builder
	accounts(t.Context(), &out, transport, []string{"work", "home", "ended", "failing", "broken"})
	want := regexp.MustCompile(`^work     logged in until \d{4}-\d\d-\d\d
home     not logged in
ended    login has ended
failing  logged in, the refresh fails: tried again at \d\d:\d\d:\d\d
broken   not known: the store is down
$`)
	if !want.MatchString(out.String()) {
		t.Errorf("accounts:\n%s", &out)
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
		if err := listWallets(ctx, client); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("error %v, want the one sign that says log in", err)
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
