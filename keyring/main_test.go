package keyring_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The tests use the system's own keyring. On Linux they bring a real one: the
// test binary runs itself again under a D-Bus session of its own, with
// a home of its own, and starts GNOME Keyring there.

const (
	stageEnv  = "KEYRING_TEST_STAGE" // "" at first, then one of these
	withBus   = "bus"
	withoutIt = "none" // there is no keyring: tests that need one are skipped

	workerEnv = "KEYRING_TEST_WORKER"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(workerEnv); name != "" {
		os.Exit(runWorker(name))
	}
	if runtime.GOOS != "linux" {
		os.Exit(m.Run())
	}
	switch os.Getenv(stageEnv) {
	case "":
		os.Exit(runOnBus())
	case withBus:
		if err := startKeyring("\n"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// runOnBus runs the tests in a D-Bus session, and without a keyring only where
// it cannot be had and nobody relies on the result.
func runOnBus() int {
	home, err := os.MkdirTemp("", "keyring")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(home) }()
	stage, cmd := withBus, exec.Command("dbus-run-session", append([]string{"--"}, os.Args...)...)
	if err := install("dbus-run-session", "gnome-keyring-daemon"); err != nil {
		fmt.Fprintln(os.Stderr, "keyring: the tests need dbus and gnome-keyring:", err)
		if os.Getenv("CI") != "" {
			return 1
		}
		fmt.Fprintln(os.Stderr, "keyring: SKIPPING all that needs a keyring")
		stage, cmd = withoutIt, exec.Command(os.Args[0], os.Args[1:]...)
	}
	cmd.Env = append(homeEnv(home), stageEnv+"="+stage)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return exitCode(cmd.Run())
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// install gets the programs from Debian's packages where they are missing.
func install(programs ...string) error {
	missing := ""
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			missing = name
		}
	}
	if missing == "" {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return errors.New(missing + " is missing, and cannot be installed without apt-get and the administrator's rights")
	}
	for _, args := range []string{"update", "install -y --no-install-recommends dbus gnome-keyring"} {
		cmd := exec.Command("apt-get", strings.Fields(args)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args, err, out)
		}
	}
	return nil
}

// homeEnv is the environment with a home in which nothing is yet.
func homeEnv(home string) []string {
	env := append(os.Environ(), "HOME="+home)
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"} {
		dir := filepath.Join(home, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			panic(err) // in a folder just made
		}
		env = append(env, name+"="+dir)
	}
	return env
}

// startKeyring starts GNOME Keyring on the bus. A line of password unlocks it,
// without one it stays locked. The bus's end is its own.
func startKeyring(password string) error {
	cmd := exec.Command("gnome-keyring-daemon", "--unlock", "--components=secrets", "--daemonize")
	cmd.Stdin = strings.NewReader(password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("gnome-keyring-daemon: %w: %s", err, out)
	}
	return nil
}

func needKeyring(t *testing.T) {
	t.Helper()
	if os.Getenv(stageEnv) == withoutIt {
		t.Skip("there is no keyring")
	}
}
