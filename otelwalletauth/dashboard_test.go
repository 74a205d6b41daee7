package otelwalletauth_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/walletauth/walletauth/internal/need"
)

// promtool runs Prometheus' own checker.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		need.Skip(t, err, "it comes with prometheus, which make test installs as root on Debian")
	}
	if output, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, output)
	}
}

func TestAlertRules(t *testing.T) {
	promtool(t, "check", "rules", "prometheus/alerts.yml")
	promtool(t, "test", "rules", "prometheus/alerts_test.yml")
}

// expressions returns the dashboard's queries.
func expressions(t *testing.T) (found []string) {
	t.Helper()
	data, err := os.ReadFile("grafana/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			found = append(found, target.Expr)
		}
	}
	if len(found) < 9 {
		t.Errorf("%d queries in the dashboard", len(found))
	}
	return found
}

// The dashboard's queries are checked as recording rules, with Grafana's variables
// replaced.
func TestDashboardQueries(t *testing.T) {
	rules := strings.Builder{}
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*")
	for i, expr := range expressions(t) {
		fmt.Fprintf(&rules, "  - record: query%d\n    expr: %q\n", i, variables.Replace(expr))
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", file)
}

// Dashboard and alerts use every metric of the README, by the name that it has in
// Prometheus, and no other.
func TestDashboardAndAlertsUseTheMetrics(t *testing.T) {
	names := func(text string) []string {
		set := make(map[string]bool)
		for _, name := range regexp.MustCompile(`walletauth_[a-z_]+_(?:total|seconds)`).FindAllString(text, -1) {
			set[name] = true
		}
		return slices.Sorted(maps.Keys(set))
	}
	read := func(path string) string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	documented := names(read("README.md"))
	if used := names(strings.Join(expressions(t), " ")); !slices.Equal(used, documented) {
		t.Errorf("the dashboard has %q, the README %q", used, documented)
	}
	for _, name := range names(read("prometheus/alerts.yml")) {
		if !slices.Contains(documented, name) {
			t.Errorf("the alerts use %s, which the README does not have", name)
		}
	}
}
