package main_test

import (
	"encoding/base64"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	oskeyring "github.com/zalando/go-keyring"
)

// On Linux the scripts bring a keyring: the test runs itself again under a D-Bus
// session of its own and starts GNOME Keyring there.

func TestKeyring(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it would use the keyring of who runs the tests")
	}
	if os.Getenv(busEnv) == "" {
		runOnBus(t)
		return
	}
	startKeyring(t)
	runScripts(t, "testdata/keyring")
}

// runOnBus runs this test again where there is a bus.
func runOnBus(t *testing.T) {
	for _, program := range []string{"dbus-run-session", "gnome-keyring-daemon"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%v: install dbus and gnome-keyring", err)
			}
			t.Skipf("%v: install dbus and gnome-keyring", err)
		}
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, []byte(busConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dbus-run-session", "--config-file="+config, "--",
		"sh", "-c", busEnv+`=$DBUS_SESSION_BUS_ADDRESS exec "$0" "$@"`, os.Args[0], "-test.run=^TestKeyring$", "-test.v")
	cmd.Env = os.Environ()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR"} {
		folder := filepath.Join(dir, name)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, name+"="+folder)
	}
	cmd.Env = append(cmd.Env, binaryEnv+"="+binary)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestKeyring/keyring") {
		t.Errorf("%v\n%s", err, out)
	}
}

// busConfig is a bus that starts no service of its own accord.
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

// startKeyring starts GNOME Keyring, unlocked, and waits until it answers.
func startKeyring(t *testing.T) {
	t.Helper()
	cmd := exec.Command("gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets")
	cmd.Stdin = strings.NewReader("\n")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	for deadline := time.Now().Add(hang); ; time.Sleep(20 * time.Millisecond) {
		_, err := oskeyring.Get("walletauth", "not there")
		if errors.Is(err, oskeyring.ErrNotFound) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the keyring does not come up:", err)
		}
	}
}

// keyringKey is the sealing key in the keyring, in the forms that a program
// might print.
func keyringKey() ([]string, error) {
	item, err := oskeyring.Get("walletauth", "walletauth session key")
	if err != nil {
		return nil, err
	}
	_, encoded, _ := strings.Cut(item, ":")
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != 32 {
		return nil, errors.New("the item in the keyring has another format")
	}
	return formsOf(raw), nil
}
