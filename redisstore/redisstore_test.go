package redisstore_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestStore(t *testing.T) {
	walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore { return newStore(t) })
}

// TestStoreInEightProcesses runs TestStore in 8 processes at once, over one
// Redis.
func TestStoreInEightProcesses(t *testing.T) {
	url := redisURL(t)
	errs := make(chan error)
	for range 8 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestStore$")
		cmd.Env = append(os.Environ(), urlEnv+"="+url)
		go func() {
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			errs <- err
		}()
	}
	for range 8 {
		<-errs
	}
}

func TestProcesses(t *testing.T) {
	walletauthtest.TestProcesses(t,
		func(t *testing.T) string { return place(t) },
		func(t *testing.T, place string) walletauth.TokenStore {
			s, err := open(place, 2*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			return s
		})
}

func TestTakeover(t *testing.T) {
	remotetest.Takeover(t, open, place(t))
}
