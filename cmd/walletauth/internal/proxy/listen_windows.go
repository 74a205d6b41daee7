package proxy

import (
	"errors"
	"net"
)

// listenPrivate refuses, as no mode keeps others from a socket on Windows.
func listenPrivate(string) (net.Listener, error) {
	return nil, errors.New("a socket cannot be kept from other users on Windows: use 127.0.0.1:PORT")
}
