//go:build linux

package remotetest

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"time"
)

// Redis is a redis-server on a socket of its own. What it holds stays in its
// folder, from one Start to the next.
type Redis struct {
	*Service
	Socket          string
	Address         string // of a node of a cluster
	program, folder string
}

// NewRedis finds the program, or installs it, and starts nothing yet.
func NewRedis() (*Redis, error) {
	folder, err := Folder()
	if err != nil {
		return nil, err
	}
	return NewRedisIn(folder)
}

// NewRedisIn is NewRedis with a folder of the caller's.
func NewRedisIn(folder string) (*Redis, error) {
	program, err := Find("redis-server", "redis-server")
	if err != nil {
		return nil, err
	}
	return &Redis{Socket: filepath.Join(folder, "redis.sock"), program: program, folder: folder}, nil
}

// URL is what redis.ParseURL takes.
func (r *Redis) URL() string { return "unix://" + r.Socket }

// Start starts it with what it held before. It loses nothing when it is killed
// if fsync is "always".
func (r *Redis) Start(fsync string, args ...string) error {
	args = append([]string{"--port", "0", "--unixsocket", r.Socket, "--dir", r.folder,
		"--save", "", "--appendonly", "yes", "--appendfsync", fsync}, args...)
	return r.start("unix", r.Socket, args)
}

// StartClusterNode starts it as a node of a cluster at a port of this machine,
// instead of a socket.
func (r *Redis) StartClusterNode(port string, args ...string) error {
	r.Address = "127.0.0.1:" + port
	args = append([]string{"--bind", "127.0.0.1", "--port", port, "--dir", r.folder,
		"--save", "", "--cluster-enabled", "yes"}, args...)
	return r.start("tcp", r.Address, args)
}

// start leaves the Service that has ended if there is to be no other.
func (r *Redis) start(network, address string, args []string) error {
	service, err := StartService(0, func() error { return pingRedis(network, address) }, r.program, args...)
	if err == nil {
		r.Service = service
	}
	return err
}

// pingRedis asks by hand, so that the module needs no client.
func pingRedis(network, address string) error {
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprint(conn, "PING\r\n"); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && answer != "+PONG\r\n" {
		return fmt.Errorf("the answer to PING is %q", answer)
	}
	return err
}
