package main

import (
	"syscall"
	"testing"

	"github.com/walletauth/walletauth/internal/remote/remotetest"
)

func TestAKillCostsNothingInRedisEither(t *testing.T) {
	status, stdout, stderr := start(t, "-for", "5s", "-users", "5", "-redis", newRedis(t))
	wellDone(t, status, stdout, stderr)
}

// newRedis starts one on a socket of its own.
func newRedis(t *testing.T) (url string) {
	t.Helper()
	r, err := remotetest.NewRedisIn(t.TempDir())
	if err == nil {
		err = r.Start("everysec")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Stop(syscall.SIGKILL) })
	return r.URL()
}
