//go:build linux

package main_test

import (
	"os"
	"os/exec"
	"slices"
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
	b.Run("walletauth token, sealed by the keyring", func(b *testing.B) {
		startKeyring(b)
		benchmarkToken(b, api)
	})
	b.Run("walletauth token, sealed by a key file", func(b *testing.B) {
		benchmarkToken(b, api, "--key-file", b.TempDir()+"/sealing.key")
	})
	b.Run("walletauth token, not sealed", func(b *testing.B) { benchmarkToken(b, api, "--insecure-storage") })
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

func benchmarkToken(b *testing.B, api *walletauthtest.Server, storage ...string) {
	b.Helper()
	env := append(os.Environ(), "XDG_CONFIG_HOME="+b.TempDir(), "WALLETAUTH_PROFILE=bench")
	runOnce(b, env, binary, append([]string{"login", "--anonymous", "--api", api.URL, "--project", "project"}, storage...)...)
	run(b, env, binary, "token")
}

// run measures a command. On a busy machine the processor time and the median
// say more than the mean.
func run(b *testing.B, env []string, name string, args ...string) {
	b.Helper()
	var used time.Duration
	var elapsed []time.Duration
	for b.Loop() {
		began := time.Now()
		used += runOnce(b, env, name, args...)
		elapsed = append(elapsed, time.Since(began))
	}
	slices.Sort(elapsed)
	b.ReportMetric(milliseconds(used)/float64(b.N), "cpu-ms/op")
	b.ReportMetric(milliseconds(elapsed[len(elapsed)/2]), "median-ms")
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func runOnce(b *testing.B, env []string, name string, args ...string) time.Duration {
	b.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
