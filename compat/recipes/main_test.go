package recipes

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// walletKit answers in the place of Testnet and Mainnet, so that the recipes run
// as they are printed.
var walletKit = walletauthtest.NewUnstartedServer(walletauthtest.Config{ProjectID: "my-project"})

type standIn struct {
	http.RoundTripper
	others http.RoundTripper
}

func (s standIn) RoundTrip(req *http.Request) (*http.Response, error) {
	if origin := req.URL.Scheme + "://" + req.URL.Host; origin == walletauth.Testnet || origin == walletauth.Mainnet {
		return s.RoundTripper.RoundTrip(req)
	}
	return s.others.RoundTrip(req)
}

func TestMain(m *testing.M) {
	if os.Getenv("MOVE_FROM") != "" {
		moveAsProcess()
		return
	}
	http.DefaultTransport = standIn{walletKit.RoundTripper(), http.DefaultTransport}
	status := m.Run()
	for _, violation := range walletKit.Violations() {
		fmt.Println("no correct client does this:", violation)
		status = 1
	}
	os.Exit(status)
}

// TestRecipesAreThisCode looks for every block of code in docs/recipes.md, line by
// line except for the indentation, in the files of this module.
func TestRecipesAreThisCode(t *testing.T) {
	page, err := os.ReadFile("../../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	for language, least := range map[string]int{"go": 25, "js": 1} {
		blocks := strings.Split(outdent(string(page)), "\n```"+language+"\n")[1:]
		if len(blocks) < least {
			t.Errorf("%d blocks of %s in the page, want %d", len(blocks), language, least)
		}
		code := code(t, "."+language)
		for _, block := range blocks {
			block, _, _ = strings.Cut(block, "\n```\n")
			if !strings.Contains(code, "\n"+block+"\n") {
				t.Errorf("not in this module:\n%s", block)
			}
		}
	}
}

func compiledCode(t *testing.T) string { return code(t, ".go") }

// code is all files of this module that have an extension.
func code(t *testing.T, extension string) string {
	var all strings.Builder
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != extension {
			return err
		}
		text, err := os.ReadFile(path)
		all.WriteString("\n" + outdent(string(text)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

func outdent(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, "\n")
}

// loggedIn returns a transport over a store where userID is logged in under
// key.
func loggedIn(t *testing.T, key, userID string) *walletauth.Transport {
	t.Helper()
	store := &walletauth.MemoryStore{}
	if err := walletauth.Save(t.Context(), store, key, walletKit.Login(userID)); err != nil {
		t.Fatal(err)
	}
	return &walletauth.Transport{Store: store}
}

// listWallets is what the program of a recipe does.
func listWallets(ctx context.Context, client *http.Client) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, walletauth.Testnet+"/wallets", nil)
	if err != nil {
		return err
	}
	return finish(client.Do(req))
}
