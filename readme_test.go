package walletauth_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// The functions below hold the README's code word for word, so that it compiles
// and runs. TestReadmeIsThisCode compares the two.

func readmeFirstUse(ctx context.Context, session *walletauth.Session) error {
	store := &walletauth.MemoryStore{}
	client := &http.Client{Transport: &walletauth.Transport{
		Store:     store,
		ProjectID: "my-project",
		BaseURL:   walletauth.Testnet,
	}}
	if err := walletauth.Save(ctx, store, "", session); err != nil { // what a login answered
		return err
	}
	resp, err := client.Get(walletauth.Testnet + "/wallets") // and so on, for weeks
	return readmeClose(resp, err)
}

func readmeErrors(err error) string {
	switch {
	case errors.Is(err, walletauth.ErrNoSession), errors.Is(err, walletauth.ErrSessionExpired):
		return "log in"
	case err != nil:
		return "try later"
	}
	return ""
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
	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t}) // what no correct client does fails t
	store := &walletauth.MemoryStore{}
	client := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: srv.URL}}
	if err := walletauth.Save(t.Context(), store, "", srv.Login("ada")); err != nil {
		t.Fatal(err)
	}
	srv.RevokeAccess("ada")                               // the next request gets a 401,
	srv.FailRefresh(1, walletauthtest.Fault{Status: 503}) // and the refresh has to be tried twice
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

	if err := readmeFirstUse(t.Context(), srv.Login("ada")); err != nil {
		t.Error("first use:", err)
	}
	users := &readmeUsers{}
	if err := users.saveSession(t.Context(), "ada", srv.Login("ada")); err != nil {
		t.Fatal(err)
	}
	client := readmeEvents(readmeFuncStore(users))
	got := []string{
		readmeErrors(readmeManyUsers(t.Context(), client, "ada")),
		readmeErrors(readmeManyUsers(t.Context(), client, "bob")),
	}
	if want := []string{"", "log in"}; !slices.Equal(got, want) {
		t.Errorf("many users: %q, want %q", got, want)
	}
}

func TestReadmeTesting(t *testing.T) { readmeTesting(t) }
