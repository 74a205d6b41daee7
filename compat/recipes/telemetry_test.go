package recipes

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/need"
	"github.com/walletauth/walletauth/otelwalletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// observe returns an OnEvent that counts for Prometheus and logs.
func observe(registry *prometheus.Registry) (func(context.Context, walletauth.Event), error) {
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry))
	if err != nil {
		return nil, err
	}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))
	onEvent, err := otelwalletauth.Instrumentation{MeterProvider: meters}.OnEvent()
	if err != nil {
		return nil, err
	}
	return otelwalletauth.Tee(onEvent, walletauth.LogEvents(slog.Default())), nil
}

func TestObserve(t *testing.T) {
	registry := prometheus.NewRegistry()
	onEvent, err := observe(registry)
	if err != nil {
		t.Fatal(err)
	}
	transport := loggedIn(t, "", "ivy")
	transport.OnEvent = onEvent
	walletKit.RevokeAccess("ivy")
	if err := listWallets(t.Context(), &http.Client{Transport: transport}); err != nil {
		t.Fatal(err)
	}
	page := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(page.Body.String(), "\nwalletauth_refreshes_total{") {
		t.Errorf("not counted:\n%s", page.Body)
	}
}

// TestAlertsAreThoseOfOtelwalletauth keeps two pages from drifting apart. That the
// names in them are those of the metrics, the example of otelwalletauth shows.
func TestAlertsAreThoseOfOtelwalletauth(t *testing.T) {
	page, readme := readPage(t, "docs/recipes.md"), readPage(t, "otelwalletauth/README.md")
	_, alerts, _ := strings.Cut(readme, "Worth an alert:\n\n")
	if alerts == "" || !strings.Contains(page, "\n\n"+alerts+"\n") {
		t.Errorf("docs/recipes.md lacks the alerts of otelwalletauth/README.md:\n%s", alerts)
	}
}

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
		{`grep 'level=ERROR msg=walletauth' | grep -o ' user_id=[^ ]*'`, " user_id=mia\n", &text},
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
