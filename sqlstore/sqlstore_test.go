//go:build linux

package sqlstore_test

import (
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/sqlstore"
	"github.com/walletauth/walletauth/walletauthtest"
)

func TestStore(t *testing.T) {
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore {
			return openStore(t, migrated(t, newPlace(t)), 10)
		})
	})
}

func TestStatements(t *testing.T) {
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		remotetest.Server(t, sqlstore.ServerOf(openStore(t, migrated(t, newPlace(t)), 4)))
	})
}

func TestProcesses(t *testing.T) {
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		walletauthtest.TestProcesses(t,
			func(t *testing.T) string { return migrated(t, newPlace(t)) },
			func(t *testing.T, place string) walletauth.TokenStore {
				s, err := open(place, 2*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
	})
}
