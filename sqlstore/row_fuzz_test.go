package sqlstore

import (
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/remote"
)

// Whatever a row holds and whoever asks when: a lease excludes for as long as it
// lasts, fences grow, and a save replaces only what its holder has seen.
func FuzzRow(f *testing.F) {
	f.Add(uint8(1), uint8(1), uint8(2), int64(5), int64(3), int64(100), int64(50), []byte("data"))
	f.Add(uint8(0), uint8(0), uint8(1), int64(0), int64(0), int64(0), int64(1<<50), []byte(nil))
	f.Add(uint8(1), uint8(2), uint8(2), int64(7), int64(9), int64(0), int64(50), []byte("data"))
	f.Add(uint8(3), uint8(1), uint8(2), int64(-1), int64(9), int64(1<<60), int64(0), []byte{})
	f.Fuzz(func(t *testing.T, stored, owner, asks uint8, fence, dataFence, until, now int64, data []byte) {
		fence, dataFence, now = fence>>2, dataFence>>2, now>>2 // no year is that far
		before := row{
			Record: remote.Record{Stamp: remote.Stamp{stored}, Fence: dataFence, Data: data},
			fence:  max(fence, dataFence), owner: remote.Stamp{owner}, until: until, now: now,
		}
		me := remote.Stamp{asks, 1: 1} // zero is nobody
		if asks == stored {
			before.Stamp = me
		}
		if asks == owner {
			before.owner = me
		}
		checkAcquire(t, before, me)
		for _, seen := range []remote.Stamp{before.Stamp, {200}} {
			checkSave(t, before, remote.Change{Stamp: me, LeaseFence: before.fence, Seen: seen, Data: []byte("new"), Expires: time.UnixMicro(1)})
			checkSave(t, before, remote.Change{Stamp: me, LeaseFence: before.fence, Seen: seen})
		}
	})
}

func checkAcquire(t *testing.T, before row, me remote.Stamp) {
	const lease = time.Second
	after := before
	granted, changed := after.acquire(me, lease)
	isHeld := before.owner != me && before.until > before.now
	isLate := before.Stamp == me || before.owner == me && before.until == 0
	switch {
	case granted == (isHeld || isLate):
		t.Errorf("%+v: granted is %v", before, granted)
	case granted && (after.owner != me || after.until != before.now+lease.Microseconds() || !changed):
		t.Errorf("%+v: the lease is %+v", before, after)
	case granted && before.owner != me && after.fence <= before.fence, after.fence < before.fence:
		t.Errorf("%+v: the fence is %d", before, after.fence)
	case isHeld && !isLate && after.until > before.now+lease.Microseconds():
		t.Errorf("%+v: the lease of another lasts until %d", before, after.until)
	}
}

func checkSave(t *testing.T, before row, c remote.Change) {
	after := before
	isFirst := before.Stamp == remote.Stamp{} && before.Data == nil
	saved := after.save(c)
	switch {
	case saved != (before.Stamp == c.Stamp || before.Stamp == c.Seen || isFirst):
		t.Errorf("%+v: a save of %+v is %v", before, c, saved)
	case !saved:
	case after.Stamp != c.Stamp || string(after.Data) != string(c.Data) || (after.Data == nil) != (c.Data == nil) || (after.expires != 0) != (c.Data != nil):
		t.Errorf("%+v: after a save of %+v there is %+v", before, c, after)
	case before.Stamp == c.Stamp && after.Fence != before.Fence, before.Stamp != c.Stamp && after.Fence <= before.Fence, after.fence < after.Fence:
		t.Errorf("%+v: after a save of %+v the fences are %d and %d", before, c, after.Fence, after.fence)
	case before.owner == c.Stamp && after.until != 0, before.owner != c.Stamp && after.until != before.until:
		t.Errorf("%+v: after a save of %+v the lease ends at %d", before, c, after.until)
	}
}
