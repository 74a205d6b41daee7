package remote

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// Whatever is asked, answered and heard of a few keys, in whatever order: a
// copy that may serve without a look at the server is what the last change that
// was heard of stored, and the number of copies is bounded.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7})
	f.Add([]byte("ask, change, answer, hear"))
	f.Add([]byte{0x00, 0x08, 0x10, 0x18, 0x00, 0x10, 0x18, 0x20})
	f.Fuzz(func(t *testing.T, steps []byte) {
		w := &hearsay{cache: newCache(4), shard: new(shard), truth: map[string]*stored{}, asked: map[string]question{}, own: map[string]int64{}}
		w.cache.subscribe()
		w.shard.heard.Store(&period{until: time.Now().Add(time.Hour)})
		for _, step := range steps {
			w.step(int(step>>3), string(rune('a'+step%8)))
			w.check(t)
		}
	})
}

// hearsay is a server, what has been heard of it, and questions under way.
type hearsay struct {
	cache  *cache
	shard  *shard
	truth  map[string]*stored
	asked  map[string]question
	own    map[string]int64 // the fence of the last change of our own
	untold []Message        // of changes, in their order
	count  int
}

type question struct {
	lookup
	found *stored // when it began
}

type stored struct {
	session *walletauth.Session
	Record
}

// step lets one thing happen that concerns id.
func (w *hearsay) step(what int, id string) {
	switch what % 8 {
	case 0:
		w.asked[id] = question{w.cache.begin(id), w.of(id)}
	case 1: // the server has looked just now
		w.answer(id, w.of(id))
	case 5: // it looked at once, and the answer was slow
		w.answer(id, w.asked[id].found)
	case 2:
		w.change(id, false)
	case 3:
		w.change(id, true)
	case 4:
		w.hear()
	case 6: // this process stores something itself
		l := w.cache.begin(id)
		w.change(id, false)
		w.own[id] = w.truth[id].Fence
		w.cache.storeSaved(l, w.truth[id].session, w.truth[id].Record, w.shard)
	case 7:
		w.cache.sweep(time.Now().Add(time.Duration(w.count%3) * idle))
	}
}

func (w *hearsay) answer(id string, found *stored) {
	if q, ok := w.asked[id]; ok {
		delete(w.asked, id)
		w.cache.store(q.lookup, found.session, found.Record, w.shard)
	}
}

func (w *hearsay) of(id string) *stored {
	if s := w.truth[id]; s != nil {
		return s
	}
	return new(stored)
}

func (w *hearsay) change(id string, isLogout bool) {
	w.count++
	s := &stored{session: session(w.count), Record: Record{Stamp: Stamp{byte(w.count), byte(w.count >> 8), 1}, Fence: int64(w.count)}}
	if isLogout {
		s.session = nil
	}
	w.truth[id] = s
	w.untold = append(w.untold, Message{ID: id, Fence: s.Fence, Deleted: isLogout})
}

func (w *hearsay) hear() {
	if len(w.untold) > 0 {
		w.cache.invalidate(w.untold[0])
		w.untold = w.untold[1:]
	}
}

// check fails if a copy serves that an announced change has replaced. Of a
// change that is yet to be announced nobody can know.
func (w *hearsay) check(t *testing.T) {
	if n := len(w.cache.young) + len(w.cache.old); n > w.cache.max {
		t.Fatalf("%d copies, want %d at most", n, w.cache.max)
	}
	for _, id := range slices.Sorted(maps.Keys(w.truth)) { // in one order, since to look makes a copy young
		now, s := w.truth[id], w.cache.fresh(id, time.Now())
		if s != nil && w.toldAll(id) && s != now.session {
			t.Fatalf("the copy of %s is session %s, the server holds %s", id, s.ID, describe(now))
		}
	}
}

// toldAll reports whether this process knows of the last change of id. It knows
// of its own without being told.
func (w *hearsay) toldAll(id string) bool {
	for _, m := range slices.Backward(w.untold) {
		if m.ID == id {
			return m.Fence == w.own[id]
		}
	}
	return true
}

func describe(s *stored) string {
	if s.session == nil {
		return "none"
	}
	return fmt.Sprint("session ", s.session.ID)
}
