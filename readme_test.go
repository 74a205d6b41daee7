package walletauth_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// The functions below hold the README's code word for word, so that it compiles
// and runs. TestReadmeIsThisCode compares the two.

func readmeFirstUse() error {
	client := &http.Client{Transport: &walletauth.Transport{
		Store:        &walletauth.MemoryStore{}, // sessions live here; others are below
		ProjectID:    "my-project",
		BaseURL:      walletauth.Testnet,
		CaptureLogin: true, // a login through this client is stored, a logout deletes it
	}}

	resp, err := client.Post(walletauth.Testnet+"/users/login-anonymously", "application/json", nil)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("login: %s", resp.Status)
	}

	resp, err = client.Get(walletauth.Testnet + "/wallets") // and so on, for weeks
	return readmeClose(resp, err)
}

func readmeErrors(err error) string {
	var storeErr *walletauth.StoreError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, walletauth.ErrNoSession):
		return "Log in."
	case errors.Is(err, walletauth.ErrSessionExpired):
		return "Your login has ended. Log in again."
	case errors.Is(err, walletauth.ErrUnreadable): // is a StoreError too
		return "Your saved login cannot be read. Log in again."
	case errors.As(err, &storeErr):
		return "The session store is down. Try again in a minute."
	default:
		return "WalletKit cannot be reached. Try again in a minute."
	}
}

func readmeManyUsers(ctx context.Context, client *http.Client, userID string) error {
	ctx = walletauth.WithKey(ctx, userID)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, walletauth.Testnet+"/wallets", nil)
	if err != nil {
		return err
	}
	return readmeClose(client.Do(req))
}

type readmeUsers struct{ walletauth.MemoryStore }

func (u *readmeUsers) loadSession(ctx context.Context, key string) (*walletauth.Session, error) {
	return u.Load(ctx, key)
}

func (u *readmeUsers) saveSession(ctx context.Context, key string, s *walletauth.Session) error {
	return walletauth.Save(ctx, &u.MemoryStore, key, s)
}

func readmeFuncStore(users *readmeUsers) walletauth.TokenStore {
	store := &walletauth.FuncStore{
		LoadFunc: users.loadSession, // func(ctx, key) (*walletauth.Session, error)
		SaveFunc: users.saveSession, // func(ctx, key, *walletauth.Session) error
	}
	return store
}

func readmeEvents(store walletauth.TokenStore) *http.Client {
	transport := &walletauth.Transport{
		Store:   store,
		OnEvent: walletauth.LogEvents(slog.Default()),
	}
	return &http.Client{Transport: transport}
}

func readmeTesting(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t}) // a stand-in; t fails if a request is wrong
	store := &walletauth.MemoryStore{}
	client := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: srv.URL}}
	if err := walletauth.Save(t.Context(), store, "", srv.Login("ada")); err != nil {
		t.Fatal(err)
	}
	srv.RevokeAccess("ada")                               // the next request gets a 401,
	srv.FailRefresh(1, walletauthtest.Fault{Status: 503}) // and the refresh needs two attempts
	resp, err := client.Get(srv.URL + "/wallets")
	if err := readmeClose(resp, err); err != nil {
		t.Error(err)
	}
}

func readmeClose(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

func TestReadmeIsThisCode(t *testing.T) {
	blocks := readmeBlocks(t)
	code := trimmedLines(t, "readme_test.go")
	if len(blocks) == 0 {
		t.Fatal("README.md has no Go code")
	}
	for _, block := range blocks {
		if !strings.Contains(code, block) {
			t.Errorf("README.md has code that is not in readme_test.go:\n%s", block)
		}
	}
}

// readmeBlocks returns the README's blocks of Go, their indentation removed.
func readmeBlocks(t *testing.T) []string {
	parts := strings.Split(trimmedLines(t, "README.md"), "\n```go\n")
	for i, part := range parts {
		parts[i], _, _ = strings.Cut(part, "```\n")
		parts[i] = "\n" + parts[i]
	}
	return parts[1:]
}

func trimmedLines(t *testing.T, file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range strings.Lines(string(data)) {
		b.WriteString(strings.TrimSpace(line) + "\n")
	}
	return b.String()
}

// TestReadmeCodeWorks has a stand-in answer in WalletKit's place. It is not
// parallel, as it replaces http.DefaultTransport.
func TestReadmeCodeWorks(t *testing.T) {
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{ProjectID: "my-project", TB: t})
	original := http.DefaultTransport
	http.DefaultTransport = srv.RoundTripper()
	defer func() { http.DefaultTransport = original }()

	if err := readmeFirstUse(); err != nil {
		t.Error("first use:", err)
	}
	users := &readmeUsers{}
	if err := users.saveSession(t.Context(), "ada", srv.Login("ada")); err != nil {
		t.Fatal(err)
	}
	client := readmeEvents(readmeFuncStore(users))
	if err := readmeManyUsers(t.Context(), client, "ada"); err != nil {
		t.Error("many users:", err)
	}
}

// TestReadmeErrors has each kind of error come out of a real request. The table
// of the README has the same sentences as its code.
func TestReadmeErrors(t *testing.T) {
	login := func(t *testing.T, srv *walletauthtest.Server) walletauth.TokenStore {
		store := &walletauth.MemoryStore{}
		if err := walletauth.Save(t.Context(), store, "ada", srv.Login("ada")); err != nil {
			t.Fatal(err)
		}
		return store
	}
	failing := func(err error) walletauth.TokenStore {
		return &walletauth.FuncStore{LoadFunc: func(context.Context, string) (*walletauth.Session, error) { return nil, err }}
	}
	page := trimmedLines(t, "README.md")
	for want, prepare := range map[string]func(*testing.T, *walletauthtest.Server) walletauth.TokenStore{
		"": login,
		"Log in.": func(*testing.T, *walletauthtest.Server) walletauth.TokenStore {
			return &walletauth.MemoryStore{}
		},
		"Your login has ended. Log in again.": func(t *testing.T, srv *walletauthtest.Server) walletauth.TokenStore {
			defer srv.RevokeSessions("ada")
			return login(t, srv)
		},
		"Your saved login cannot be read. Log in again.": func(*testing.T, *walletauthtest.Server) walletauth.TokenStore {
			return failing(fmt.Errorf("row 7: %w", walletauth.ErrUnreadable))
		},
		"The session store is down. Try again in a minute.": func(*testing.T, *walletauthtest.Server) walletauth.TokenStore {
			return failing(errors.New("connection refused"))
		},
		"WalletKit cannot be reached. Try again in a minute.": func(t *testing.T, srv *walletauthtest.Server) walletauth.TokenStore {
			srv.Fail(walletauthtest.ListWallets, 1, walletauthtest.Fault{Drop: true})
			return login(t, srv)
		},
	} {
		t.Run(want, func(t *testing.T) {
			srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{})
			client := &http.Client{Transport: &walletauth.Transport{
				Store: prepare(t, srv), BaseURL: srv.URL, Base: srv.RoundTripper(),
			}}
			req, err := http.NewRequestWithContext(walletauth.WithKey(t.Context(), "ada"), http.MethodGet, srv.URL+"/wallets", nil)
			if err != nil {
				t.Fatal(err)
			}
			err = readmeClose(client.Do(req))
			if got := readmeErrors(err); got != want {
				t.Errorf("%v: told %q, want %q", err, got, want)
			}
			if !strings.Contains(page, "| "+want+" |\n") && want != "" {
				t.Errorf("the README's table does not say %q", want)
			}
		})
	}
}

func TestReadmeTesting(t *testing.T) { readmeTesting(t) }
