//go:build linux

package remotetest

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/walletauth/walletauth/internal/remote"
)

func stamp() (s remote.Stamp) {
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// holder is one owner of leases of one key at a server.
type holder struct {
	t      *testing.T
	server remote.Server
	id     string
	owner  remote.Stamp
	remote.Grant
	saved int64 // the fence of what it stored
}

func (h *holder) acquire(lease time.Duration, want bool) {
	h.t.Helper()
	g, ok, err := h.server.Acquire(h.t.Context(), h.id, h.owner, lease, false)
	if err != nil || ok != want {
		h.t.Fatalf("Acquire: %v, %v, want %v", ok, err, want)
	}
	h.Grant = g
}

func (h *holder) save(data string, want bool) {
	h.t.Helper()
	c := remote.Change{Stamp: h.owner, LeaseFence: h.LeaseFence, Seen: h.Stamp, Expires: time.Now().Add(time.Hour)}
	if data != "" {
		c.Data = []byte(data)
	}
	fence, saved, err := h.server.Save(h.t.Context(), h.id, c)
	if err != nil || saved != want {
		h.t.Errorf("Save of %q with fence %d: %v, %v, want %v", data, h.LeaseFence, saved, err, want)
	}
	if saved {
		h.saved = fence
	}
}

func (h *holder) wantStored(data string) {
	h.t.Helper()
	r, err := h.server.Read(h.t.Context(), h.id)
	if err != nil || string(r.Data) != data || (r.Data == nil) != (data == "") {
		h.t.Errorf("Read: %q, %v, want %q", r.Data, err, data)
	}
}

const short = 100 * time.Millisecond

// lapse waits until a short lease has ended.
func lapse() { <-time.After(2 * short) }

var serverChecks = map[string]func(a, b, c *holder){
	"a lease excludes, and may be asked for again": func(a, b, _ *holder) {
		a.acquire(time.Minute, true)
		fence := a.LeaseFence
		a.acquire(time.Minute, true)
		if a.LeaseFence != fence {
			a.t.Errorf("the same owner has fence %d, then %d", fence, a.LeaseFence)
		}
		b.acquire(time.Minute, false)
	},
	"a release is for the owner": func(a, b, _ *holder) {
		a.acquire(time.Minute, true)
		_ = a.server.Release(context.Background(), b.id, b.owner)
		b.acquire(time.Minute, false)
		for range 2 {
			if err := a.server.Release(context.Background(), a.id, a.owner); err != nil {
				a.t.Error(err)
			}
		}
		b.acquire(time.Minute, true)
		if b.LeaseFence <= a.LeaseFence {
			a.t.Errorf("the fence is %d after %d", b.LeaseFence, a.LeaseFence)
		}
	},
	"a renewal prolongs the owner's lease": func(a, b, _ *holder) {
		a.acquire(short, true)
		if kept, err := a.server.Renew(a.t.Context(), a.id, a.owner, time.Minute); !kept || err != nil {
			a.t.Errorf("Renew: %v, %v", kept, err)
		}
		lapse()
		b.acquire(time.Minute, false)
		if kept, err := a.server.Renew(a.t.Context(), b.id, b.owner, time.Minute); kept || err != nil {
			a.t.Errorf("Renew of another's lease: %v, %v", kept, err)
		}
	},
	"a late save is taken if nobody else has saved": func(a, b, c *holder) {
		a.acquire(short, true)
		lapse()
		b.acquire(time.Minute, true)
		a.save("a", true)
		a.wantStored("a")
		c.acquire(time.Minute, false) // b goes on holding
	},
	"a save does not replace what its holder has not seen": func(a, b, _ *holder) {
		a.acquire(short, true)
		lapse()
		b.acquire(time.Minute, true)
		a.save("a login", true)
		b.save("b", false)
		b.wantStored("a login")
		b.see()
		b.save("b", true)
		b.wantStored("b")
		if b.saved <= a.saved {
			b.t.Errorf("the fence of the second record is %d after %d", b.saved, a.saved)
		}
	},
	"fences of records grow though a save is late": func(a, b, _ *holder) {
		a.acquire(short, true)
		lapse()
		b.acquire(time.Minute, true)
		b.save("b", true)
		a.save("a", false)
		a.see()
		a.save("a", true)
		if a.saved <= b.saved {
			a.t.Errorf("the fence of the second record is %d after %d", a.saved, b.saved)
		}
		b.owner = stamp()
		b.acquire(time.Minute, true)
		if b.LeaseFence <= a.saved || b.Fence != a.saved {
			b.t.Errorf("a lease has fence %d and the record of it %d, after one of %d", b.LeaseFence, b.Fence, a.saved)
		}
	},
	"a save may be repeated": func(a, b, _ *holder) {
		a.acquire(time.Minute, true)
		a.save("a", true)
		first := a.saved
		a.save("a", true)
		if a.saved != first {
			a.t.Errorf("the repeated save has fence %d, the first %d", a.saved, first)
		}
		b.acquire(time.Minute, true)
		b.save("b", true)
		a.save("a", false)
		b.wantStored("b")
	},
	"a delete is not undone by a late save": func(a, b, _ *holder) {
		a.acquire(time.Minute, true)
		a.save("a", true)
		a.owner = stamp()
		a.acquire(short, true)
		lapse()
		b.acquire(time.Minute, true)
		b.save("", true)
		a.save("a", false)
		b.wantStored("")
		before := b.saved
		b.owner = stamp()
		if b.acquire(time.Minute, true); b.Fence != before || b.LeaseFence <= before {
			b.t.Errorf("after a delete with fence %d the record has %d and the next lease %d", before, b.Fence, b.LeaseFence)
		}
	},
	"an acquire that is repeated after the save is refused": func(a, b, _ *holder) {
		a.acquire(time.Minute, true)
		a.save("a", true)
		a.acquire(time.Minute, false)
		b.acquire(time.Minute, true)
	},
	"an acquire that is repeated after the release is refused": func(a, b, _ *holder) {
		a.acquire(time.Minute, true)
		if err := a.server.Release(a.t.Context(), a.id, a.owner); err != nil {
			a.t.Error(err)
		}
		a.acquire(time.Minute, false)
		if kept, err := a.server.Renew(a.t.Context(), a.id, a.owner, time.Minute); kept || err != nil {
			a.t.Errorf("Renew after the release: %v, %v", kept, err)
		}
		b.acquire(time.Minute, true)
	},
	"a lease from before the clock was set back lasts one lease": func(a, b, c *holder) {
		a.acquire(time.Hour, true) // as it looks when the clock was set back by an hour
		b.acquire(short, false)
		lapse()
		c.acquire(short, true)
	},
}

// see takes what is stored now for what the holder saw.
func (h *holder) see() {
	h.t.Helper()
	r, err := h.server.Read(h.t.Context(), h.id)
	if err != nil {
		h.t.Fatal(err)
	}
	h.Record = r
}

// Server checks the statements of a server one by one: leases, fences, and
// that each may be repeated.
func Server(t *testing.T, server remote.Server) {
	for name, check := range serverChecks {
		t.Run(name, func(t *testing.T) {
			newHolder := func() *holder {
				return &holder{t: t, server: server, id: server.ID(name), owner: stamp()}
			}
			check(newHolder(), newHolder(), newHolder())
		})
	}
}
