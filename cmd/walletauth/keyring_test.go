//go:build linux

package main_test

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/need"
	oskeyring "github.com/zalando/go-keyring"
)

// The tests bring a keyring: GNOME Keyring on a D-Bus session of their own, which
// knows nothing of the keyring of who runs them.

func TestKeyring(t *testing.T) {
	startKeyring(t)
	runScripts(t, "testdata/keyring")
}

// busAddress is where the scripts find a keyring, empty if they find none.
var busAddress string

// startKeyring starts a bus and GNOME Keyring, unlocked, and waits until it
// answers. Both end with the test.
func startKeyring(tb testing.TB) {
	tb.Helper()
	for _, program := range []string{"dbus-daemon", "gnome-keyring-daemon"} {
		if _, err := exec.LookPath(program); err != nil {
			need.Skip(tb, err, "apt-get install dbus gnome-keyring")
		}
	}
	dir, err := os.MkdirTemp("", "walletauth") // TempDir's paths are too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	const variable = "DBUS_SESSION_BUS_ADDRESS"
	before := os.Getenv(variable)
	busAddress = startBus(tb, dir)
	// Not Setenv of tb, which forbids that scripts run in parallel.
	if err := os.Setenv(variable, busAddress); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		busAddress = ""
		_ = os.Setenv(variable, before) // as it was
	})
	cmd := exec.Command("gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets")
	cmd.Stdin = strings.NewReader("\n")
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_CACHE_HOME="+dir, "XDG_RUNTIME_DIR="+dir)
	startDaemon(tb, cmd)
	for deadline := time.Now().Add(hang); ; time.Sleep(20 * time.Millisecond) {
		_, err := oskeyring.Get("walletauth", "not there")
		if errors.Is(err, oskeyring.ErrNotFound) {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatal("the keyring does not come up:", err)
		}
	}
}

// startBus starts a bus that starts no service of its own accord, and returns
// its address.
func startBus(tb testing.TB, dir string) (address string) {
	tb.Helper()
	config := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, []byte(fmt.Sprintf(busConfig, dir)), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	startDaemon(tb, cmd)
	address, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatal("the bus does not come up:", err, said.String())
	}
	return strings.TrimSpace(address)
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=%s</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

func startDaemon(tb testing.TB, cmd *exec.Cmd) {
	tb.Helper()
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
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
