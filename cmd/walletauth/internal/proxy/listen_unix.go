//go:build !windows

package proxy

import (
	"net"
	"syscall"
)

// listenPrivate makes the socket under a umask, since between making it and a
// chmod others could connect. The umask is the process's: whoever else makes a
// file at that moment makes it more private than meant.
func listenPrivate(file string) (net.Listener, error) {
	before := syscall.Umask(0o177)
	defer syscall.Umask(before)
	return net.Listen("unix", file)
}
