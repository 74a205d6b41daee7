//go:build linux

package sqlstore_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/sqlstore"
)

// watched returns two stores over one table, of which here has copies of both
// keys and keeps them until it sees a change.
func watched(t *testing.T, place string, conns int) (here, there *sqlstore.Store) {
	t.Helper()
	here, spy := openSpied(t, place, conns)
	there = openStore(t, place, conns)
	for i := range 2 {
		for _, key := range []string{"early", "late"} {
			id := fmt.Sprint("before", i)
			save(t, there, key, id)
			remotetest.AwaitID(t, here, key, id)
		}
		spy.awaitLooks(t, 2) // what was read before it looks for changes is read again
	}
	return here, there
}

// TestCommitsOutOfOrder: a change whose statement began before another change's is
// seen though it is committed after the other has been seen.
func TestCommitsOutOfOrder(t *testing.T) {
	waits(t)
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
	waits(t)
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

// TestClockSetBack: a change is seen that was made between the last look before
// the clock of the server was set back and the first one after it, though nobody
// looked for longer than the window.
func TestClockSetBack(t *testing.T) {
	waits(t)
	here, there := watched(t, migrated(t, inMariaDB(t)), 1) // so that a connection's clock is all there is
	for i := range 3 {
		back := time.Now().Add(-time.Duration(i+1) * time.Hour)
		id := fmt.Sprint(i + 1)
		exec(t, there, fmt.Sprintf("SET timestamp = %d", back.Unix()))
		save(t, there, "late", id)
		exec(t, here, fmt.Sprintf("SET timestamp = %d", back.Add(10*time.Second).Unix()))
		remotetest.AwaitID(t, here, "late", id)
	}
}

// TestEachChangeIsToldOnce: looks go back by more than the time since the last,
// and an echo of a probe comes after what was changed before the probe was sent.
func TestEachChangeIsToldOnce(t *testing.T) {
	waits(t)
	each(t, func(t *testing.T, newPlace func(testing.TB) string) {
		waits(t)
		s := openStore(t, migrated(t, newPlace(t)), 4)
		server := sqlstore.ServerOf(s)
		sub, err := server.Subscribe(t.Context(), "reader")
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		save(t, s, "user", "1")
		told := 0
		for i := range 3 {
			payload := fmt.Sprint(i)
			if err := server.Probe(t.Context(), "", "reader", payload); err != nil {
				t.Fatal(err)
			}
			var m remote.Message
			for m.Echo != payload {
				if m, err = sub.Next(t.Context()); err != nil {
					t.Fatal(err)
				}
				if m.ID == server.ID("user") && m.Fence > 0 { // 0: there is a row, and no session yet
					told++
				}
			}
			if told != 1 {
				t.Errorf("before the echo of probe %s the change was told %d times", payload, told)
			}
		}
	})
}
