package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
)

// Listen opens a loopback address (127.0.0.1:8080, [::1]:0, localhost:8080) or,
// with unix:PATH, a socket that only this user can open. Port 0 is any free
// one. A socket that a program left behind is replaced.
//
// The errors: the address is neither; it is in use; and what the system says.
func Listen(address string) (net.Listener, error) {
	if file, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenSocket(file)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q is no address to listen at: use 127.0.0.1:PORT or unix:PATH", address)
	}
	if host == "localhost" {
		host = "127.0.0.1" // whatever /etc/hosts says
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%s can be reached from other machines: use 127.0.0.1:%s", address, port)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is in use: choose another port, or 0 for any free one", address)
	}
	return l, err
}

func listenSocket(file string) (net.Listener, error) {
	if err := removeStale(file); err != nil {
		return nil, err
	}
	return listenPrivate(file)
}

// removeStale removes a socket at which nobody listens any more, and nothing
// else.
func removeStale(file string) error {
	info, err := os.Lstat(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s is there already and no socket: choose another path", file)
	}
	if conn, err := net.Dial("unix", file); err == nil {
		_ = conn.Close() // it was only to see
		return fmt.Errorf("%s is in use: choose another path", file)
	}
	return os.Remove(file)
}
