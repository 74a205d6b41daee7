//go:build linux

package sqlstore_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/sqlstore"
)

// watched returns two stores over one table, in which here has copies of both
// keys.
func watched(t *testing.T, place string, conns int) (here, there *sqlstore.Store) {
	here, there = openStore(t, place, conns), openStore(t, place, conns)
	for _, key := range []string{"early", "late"} {
		save(t, there, key, "0")
		remotetest.AwaitID(t, here, key, "0")
	}
	return here, there
}

// TestCommitsOutOfOrder: a change whose statement began before that of another is
// seen though it is committed after the other has been seen.
func TestCommitsOutOfOrder(t *testing.T) {
	here, there := watched(t, migrated(t, inMariaDB(t)), 4)
	for i := range 5 {
		id := fmt.Sprint(i + 1)
		data, err := walletauth.JSONCodec{}.Encode("early", remotetest.Session(id))
		if err != nil {
			t.Fatal(err)
		}
		early, err := there.DB.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := early.Exec("UPDATE "+there.Table+` SET data = ?, stamp = ?, data_fence = data_fence + 1,
			updated_at = TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6)) WHERE key_hash = ?`,
			data, rand.Text()[:16], hashOf("early")); err != nil {
			t.Fatal(err)
		}
		save(t, there, "late", id)
		remotetest.AwaitID(t, here, "late", id)
		if s, err := here.Load(t.Context(), "early"); err != nil || s.ID == id {
			t.Fatalf("before the commit: %v, %v", s, err)
		}
		if err := early.Commit(); err != nil {
			t.Fatal(err)
		}
		remotetest.AwaitID(t, here, "early", id)
	}
}

// TestSlowSave: an Update whose statement was held up for longer than anybody
// looks back for is seen all the same. It is a lock that holds it up here, as a
// disk may.
func TestSlowSave(t *testing.T) {
	here, there := watched(t, migrated(t, inMariaDB(t)), 4)
	if err := there.Update(t.Context(), "early", func(ctx context.Context, _ *walletauth.Session) (*walletauth.Session, error) {
		lock, err := there.DB.BeginTx(t.Context(), nil)
		if err != nil {
			return nil, err
		}
		time.AfterFunc(3*time.Second, func() { _ = lock.Rollback() }) // the save has waited for it then
		_, err = lock.Exec("UPDATE "+there.Table+" SET fence = fence + 1 WHERE key_hash = ?", hashOf("early"))
		return remotetest.Session("1"), err
	}); err != nil {
		t.Fatal(err)
	}
	remotetest.AwaitID(t, here, "early", "1")
}

// TestClockSetBack: changes are seen when the clock of the server is set back.
func TestClockSetBack(t *testing.T) {
	here, there := watched(t, migrated(t, inMariaDB(t)), 1) // so that a connection's clock is all there is
	for i := range 3 {
		back := time.Now().Add(-time.Duration(i+1) * time.Hour).Unix()
		for _, s := range []*sqlstore.Store{here, there} {
			exec(t, s, fmt.Sprintf("SET timestamp = %d", back))
		}
		id := fmt.Sprint(i + 1)
		save(t, there, "late", id)
		remotetest.AwaitID(t, here, "late", id)
	}
}
