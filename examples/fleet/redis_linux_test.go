package main

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
)

func TestAKillCostsNothingInRedisEither(t *testing.T) {
	status, stdout, stderr := start(t, "-for", "7s", "-users", "5", "-redis", newRedis(t))
	wellDone(t, status, stdout, stderr)
}

// newRedis starts one on a socket of its own.
func newRedis(t *testing.T) (url string) {
	t.Helper()
	program, err := remotetest.Find("redis-server", "redis-server")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	socket := filepath.Join(folder, "redis.sock")
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, MaxRetries: -1})
	defer client.Close()
	service, err := remotetest.StartService(0, func() error { return client.Ping(t.Context()).Err() },
		program, "--port", "0", "--unixsocket", socket, "--dir", folder, "--save", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { service.Stop(syscall.SIGKILL) })
	return "unix://" + socket
}
