//go:build linux

package main_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// A network that swallows packets answers nothing, not even that it is down.
func TestBlackHoleIsASentence(t *testing.T) {
	t.Parallel()
	env, api := home(t)
	login(t, env, api)
	address := blackHole(t)
	config := strings.TrimPrefix(env[1], "XDG_CONFIG_HOME=") + "/walletauth"
	profile, err := os.ReadFile(config + "/profile-default.json")
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.ReplaceAll(string(profile), api.URL, address)
	if err := os.WriteFile(config+"/profile-default.json", []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := moveSession(config, api.URL, address); err != nil {
		t.Fatal(err)
	}
	if err := expireSession(config, "default", address, walletauth.JSONCodec{}); err != nil {
		t.Fatal(err)
	}
	out, code := runCommand(t, env, binary, "token")
	if code != 5 || !strings.HasPrefix(out, "walletauth: WalletKit cannot be reached: it did not answer in time: ") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// blackHole is an address that does not answer: its queue of connections is
// full, and the kernel drops what comes.
func blackHole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return "http://" + address // full
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}
