package recipes

import (
	"bytes"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/need"
	"github.com/walletauth/walletauth/otelwalletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

func readPage(t *testing.T, path string) string {
	t.Helper()
	page, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// TestCommandsForLogs runs the page's commands on what LogEvents writes.
func TestCommandsForLogs(t *testing.T) {
	page := readPage(t, "docs/recipes.md")
	var text, asJSON bytes.Buffer
	transport := loggedIn(t, "lea", "lea")
	if err := walletauth.Save(t.Context(), transport.Store, "mia", walletKit.Login("mia")); err != nil {
		t.Fatal(err)
	}
	transport.OnEvent = otelwalletauth.Tee(
		walletauth.LogEvents(slog.New(slog.NewTextHandler(&text, nil))),
		walletauth.LogEvents(slog.New(slog.NewJSONHandler(&asJSON, nil))))
	walletKit.RevokeAccess("lea")
	walletKit.FailRefresh(1, walletauthtest.Fault{Status: http.StatusNotFound})
	walletKit.RevokeSessions("mia")
	for _, key := range []string{"lea", "mia"} {
		if err := listWallets(walletauth.WithKey(t.Context(), key), &http.Client{Transport: transport}); err == nil {
			t.Errorf("%s: no error", key)
		}
	}
	for _, c := range []struct {
		command, want string
		in            *bytes.Buffer
	}{
		{`grep 'event="session over"' | grep -o ' user_id=[^ ]*'`, " user_id=mia\n", &text},
		{`grep 'event="refresh failed"' | grep -o ' error=.*'`, " error=\"walletauth: refresh failed: status 404 Not Found: check BaseURL\"\n", &text},
		{`jq 'select(.event == "session over") | .user_id'`, "\"mia\"\n", &asJSON},
	} {
		tool, _, _ := strings.Cut(c.command, " ")
		t.Run(tool, func(t *testing.T) {
			if !strings.Contains(page, "\n    "+c.command+" ") {
				t.Errorf("the page does not have %s", c.command)
			}
			for _, name := range []string{"sh", tool} {
				if _, err := exec.LookPath(name); err != nil {
					need.Skip(t, err, "make test installs "+name+" as root on Debian")
				}
			}
			cmd := exec.CommandContext(t.Context(), "sh", "-c", c.command)
			cmd.Stdin = bytes.NewReader(c.in.Bytes())
			if out, err := cmd.Output(); err != nil || string(out) != c.want {
				t.Errorf("%s: %q, %v, want %q", c.command, out, err, c.want)
			}
		})
	}
}
