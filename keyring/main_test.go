package keyring_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/walletauth/walletauth/internal/need"
	"github.com/walletauth/walletauth/keyring"
)

// The tests use the system's own keyring. On Linux they bring a real one: the
// test binary runs itself again under a D-Bus session of its own, with
// a home of its own, and starts GNOME Keyring there.

const (
	stageEnv  = "KEYRING_TEST_STAGE" // "" at first, then one of these
	withBus   = "bus"
	withoutIt = "none" // there is no keyring: tests that need one say so

	missingEnv = "KEYRING_TEST_MISSING" // why there is no keyring

	workerEnv = "KEYRING_TEST_WORKER"
)

func TestMain(m *testing.M) {
	if !hangs() {
		keyring.SetCallTimeout(time.Minute) // however busy the machine is
	}
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
		os.Exit(runWithKeyring(m))
	}
	os.Exit(m.Run())
}

// hangs reports whether this is a worker whose keyring does not answer.
func hangs() bool {
	return os.Getenv(workerEnv) == "slow" || len(os.Args) > 1 && os.Args[1] == "hanging"
}

func runWithKeyring(m *testing.M) int {
	stop, err := startKeyring("\n")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer stop()
	return m.Run()
}

// runOnBus runs the tests in a D-Bus session. Where no keyring can be had those
// that need none run without.
func runOnBus() int {
	home, err := os.MkdirTemp("", "keyring")
	if err != nil {
		return exitCode(err)
	}
	defer func() { _ = os.RemoveAll(home) }()
	config := filepath.Join(home, "bus.conf")
	if err := os.WriteFile(config, []byte(busConfig), 0o600); err != nil {
		return exitCode(err)
	}
	stage, command := withBus, []string{"dbus-run-session", "--config-file=" + config, "--"}
	err = install("dbus-run-session", "gnome-keyring-daemon")
	if err != nil {
		stage, command = withoutIt, nil
	}
	command = append(command, os.Args...)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(homeEnv(home), busConfigEnv+"="+config, stageEnv+"="+stage, missingEnv+"="+fmt.Sprint(err))
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

var errMissing = errors.New("there is no keyring of the tests' own")

// install gets the programs from Debian's packages where they are missing. It
// waits for other installations to end.
func install(programs ...string) error {
	if installed(programs...) {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return errMissing
	}
	const script = `apt-get update; apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends dbus gnome-keyring`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if !installed(programs...) {
		return fmt.Errorf("%w, and apt-get failed (%w): %s", errMissing, err, out)
	}
	return nil
}

func installed(programs ...string) bool {
	return !slices.ContainsFunc(programs, func(name string) bool {
		_, err := exec.LookPath(name)
		return err != nil
	})
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

// busConfig is a bus that starts no service of its own accord: such a service
// would outlive the bus now and then, and keep the test's output open.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=/tmp</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

const busConfigEnv = "KEYRING_TEST_BUS_CONFIG"

// onBus is a command with a D-Bus session that lasts as long as it does.
func onBus(config string, command ...string) *exec.Cmd {
	return exec.Command("dbus-run-session", append([]string{"--config-file=" + config, "--"}, command...)...)
}

// startKeyring starts GNOME Keyring and waits until it is on the bus. A line
// of password unlocks it, without one it stays locked.
func startKeyring(password string) (stop func(), err error) {
	cmd := exec.Command("gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets")
	cmd.Stdin = strings.NewReader(password)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
	if err := awaitService(); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

func awaitService() error {
	conn, err := dbus.ConnectSessionBus()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	every := time.NewTicker(10 * time.Millisecond)
	defer every.Stop()
	deadline := time.After(time.Minute)
	for {
		var there bool
		err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, "org.freedesktop.secrets").Store(&there)
		if err != nil || there {
			return err
		}
		select {
		case <-every.C:
		case <-deadline:
			return errors.New("gnome-keyring-daemon has not come up for a minute")
		}
	}
}

func needKeyring(t *testing.T) {
	t.Helper()
	if os.Getenv(stageEnv) == withoutIt {
		need.Skip(t, errors.New(os.Getenv(missingEnv)), "install dbus and gnome-keyring, or run the tests as root on Debian, where they do")
	}
}
