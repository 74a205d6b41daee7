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
}

func (h *holder) acquire(lease time.Duration, want bool) {
	h.t.Helper()
	g, ok, err := h.server.Acquire(h.t.Context(), h.id, h.owner, lease)
	if err != nil || ok != want {
		h.t.Fatalf("Acquire: %v, %v, want %v", ok, err, want)
	}
	h.Grant = g
}

func (h *holder) save(data string, want bool) {
	h.t.Helper()
	c := remote.Change{Record: remote.Record{Stamp: h.owner}, Fence: h.Fence, Expires: time.Now().Add(time.Hour)}
	if data != "" {
		c.Data = []byte(data)
	}
	saved, err := h.server.Save(h.t.Context(), h.id, c)
	if err != nil || saved != want {
		h.t.Errorf("Save of %q with fence %d: %v, %v, want %v", data, h.Fence, saved, err, want)
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
		fence := a.Fence
		a.acquire(time.Minute, true)
		if a.Fence != fence {
			a.t.Errorf("the same owner has fence %d, then %d", fence, a.Fence)
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
		if b.Fence <= a.Fence {
			a.t.Errorf("the fence is %d after %d", b.Fence, a.Fence)
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
	"a late save is taken unless a later holder has saved": func(a, b, c *holder) {
		a.acquire(short, true)
		lapse()
		b.acquire(time.Minute, true)
		a.save("a", true) // b has not saved yet
		a.wantStored("a")
		c.acquire(time.Minute, false) // b goes on holding
		b.save("b", true)
		b.save("b", true) // as if the first answer had been lost
		a.saveAnother("late")
		b.wantStored("b")
		c.acquire(time.Minute, true)
		c.save("", true)
		c.wantStored("")
	},
	"a delete is not undone by a late save": func(a, b, _ *holder) {
		a.acquire(short, true)
		lapse()
		b.acquire(time.Minute, true)
		b.save("", true)
		a.save("a", false)
		b.wantStored("")
	},
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

// saveAnother comes too late with the fence of h.
func (h *holder) saveAnother(data string) {
	h.t.Helper()
	late := *h
	late.owner = stamp()
	late.save(data, false)
}
