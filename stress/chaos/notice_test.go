//go:build linux

package chaos_test

import (
	"testing"
	"time"
)

// TestAWrongStoreIsNoticed lets workers use stores that are wrong on purpose,
// without any fault but a slow API, and demands that the ledger complains.
func TestAWrongStoreIsNoticed(t *testing.T) {
	parallelIfShort(t)
	for twist := range twists {
		t.Run(twist, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir() + "/sessions"
			c := begin(t, newBackend(t, &backend{name: "files", place: dir}, dir), shortOr(30, 60), shortOr(3, 4), order{Twist: twist}, 0)
			c.api.trouble.Store(&troubleSlow) // so that refreshes meet
			var v verdict
			for end := time.Now().Add(patience); len(v.unexplained) == 0; <-time.After(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("no session was lost without an explanation")
				}
				v = c.ledger.judge()
			}
			said := c.ledger.wrong(v) // before workers are killed, which explains much
			t.Logf("after %v %d sessions were lost, %d of them not with a process",
				time.Since(c.ledger.began).Round(time.Millisecond), v.lost, len(v.unexplained))
			if len(said) < len(v.unexplained) {
				t.Error("what is not explained is not reported")
			}
		})
	}
}
