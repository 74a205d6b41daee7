package main_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/walletauth/walletauth/walletauthtest"
)

// BenchmarkToken is what a script waits for a token that is fresh, beside a
// process that does nothing and gh, which prints a token from a file without
// asking whether it has expired.
func BenchmarkToken(b *testing.B) {
	api := walletauthtest.NewServer(walletauthtest.Config{})
	defer api.Close()
	for name, storage := range map[string][]string{
		"sealed by a key file": {"--key-file", b.TempDir() + "/sealing.key"},
		"not sealed":           {"--insecure-storage"},
	} {
		b.Run("walletauth token, "+name, func(b *testing.B) {
			env := append(os.Environ(), "XDG_CONFIG_HOME="+b.TempDir(), "WALLETAUTH_PROFILE=bench")
			args := append([]string{"login", "--anonymous", "--api", api.URL, "--project", "project"}, storage...)
			runOnce(b, env, binary, args...)
			run(b, env, binary, "token")
		})
	}
	b.Run("walletauth --version", func(b *testing.B) {
		run(b, os.Environ(), binary, "--version")
	})
	b.Run("true", func(b *testing.B) {
		run(b, os.Environ(), "true")
	})
	b.Run("gh auth token", func(b *testing.B) {
		gh, err := exec.LookPath("gh")
		if err != nil {
			b.Skip("gh is not installed: apt-get install gh")
		}
		config := b.TempDir()
		hosts := "github.com:\n    oauth_token: gho_0123456789abcdefghijklmnopqrstuvwxyz\n    user: ada\n"
		if err := os.WriteFile(config+"/hosts.yml", []byte(hosts), 0o600); err != nil {
			b.Fatal(err)
		}
		env := append(os.Environ(), "GH_CONFIG_DIR="+config)
		run(b, env, gh, "auth", "token")
	})
}

// run measures a command, by the clock and by the processor: the latter says
// something on a busy machine, too.
func run(b *testing.B, env []string, name string, args ...string) {
	b.Helper()
	var used time.Duration
	for b.Loop() {
		used += runOnce(b, env, name, args...)
	}
	b.ReportMetric(float64(used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

func runOnce(b *testing.B, env []string, name string, args ...string) time.Duration {
	b.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
