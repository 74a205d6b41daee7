package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/redisstore"
)

// kind is a store that processes share. Its place is a string, so that it can
// be told to another process.
type kind struct {
	name  string
	start func(dir string) (place string, stop func(), err error)
	open  func(place string) (walletauth.TokenStore, error)
}

var kinds = []kind{
	{"files", startFiles, openFiles},
	{"Redis", startRedis, openRedis},
}

// errAbsent means that the server of a kind is not installed here.
type errAbsent struct{ program string }

func (e errAbsent) Error() string { return e.program + " is not installed" }

func startFiles(dir string) (string, func(), error) {
	return filepath.Join(dir, "sessions"), func() {}, nil
}

func openFiles(place string) (walletauth.TokenStore, error) {
	return &filestore.Store{Dir: place}, nil
}

// startRedis starts a server of its own on a socket in dir, which keeps
// nothing on disk.
func startRedis(dir string) (string, func(), error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, errAbsent{"redis-server"}
	}
	socket := filepath.Join(dir, "redis.sock")
	server := exec.Command(program, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir)
	if err := server.Start(); err != nil {
		return "", nil, err
	}
	stop := func() {
		_ = server.Process.Kill() // there is nothing to lose
		_ = server.Wait()
	}
	if err := listening(socket); err != nil {
		stop()
		return "", nil, err
	}
	return socket, stop, nil
}

// listening waits until somebody answers at a socket.
func listening(socket string) (err error) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var c net.Conn
		if c, err = net.Dial("unix", socket); err == nil {
			return c.Close()
		}
	}
	return err
}

func openRedis(socket string) (walletauth.TokenStore, error) {
	return &redisstore.Store{Client: redis.NewClient(&redis.Options{Network: "unix", Addr: socket})}, nil
}

// place is a kind that has been started.
type place struct {
	kind
	at   string
	stop func()
}

// startKinds starts the kinds that are installed here, and says of the others
// that they are not.
func startKinds() (places []place, stop func(), err error) {
	dir, err := os.MkdirTemp("", "walletauth-bench-")
	if err != nil {
		return nil, nil, err
	}
	stop = func() {
		for _, p := range places {
			p.stop()
		}
		_ = os.RemoveAll(dir) // a temporary folder
	}
	for _, k := range kinds {
		at, end, err := k.start(dir)
		if absent, ok := err.(errAbsent); ok {
			fmt.Fprintf(os.Stderr, "without %s: %s\n", k.name, absent)
			continue
		}
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("%s: %w", k.name, err)
		}
		places = append(places, place{k, at, end})
	}
	return places, stop, nil
}

// openPlace opens the store that a string "kind place" names.
func openPlace(s string) (walletauth.TokenStore, error) {
	name, at, _ := strings.Cut(s, " ")
	for _, k := range kinds {
		if k.name == name {
			return k.open(at)
		}
	}
	return nil, fmt.Errorf("no store %q", name)
}
