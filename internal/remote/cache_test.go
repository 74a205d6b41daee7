package remote

import (
	"fmt"
	"testing"
	"time"
)

func newCache(most int) *cache { return &cache{max: most, maxStaleness: maxStaleness} }

// held is a record as far as the cache minds.
func held(fence int64) Record { return Record{Stamp: Stamp{byte(fence), 1}, Fence: fence} }

func TestCacheIsBounded(t *testing.T) {
	c := newCache(100)
	for i := range 10_000 {
		id := fmt.Sprint(i)
		c.store(c.begin(id), session(i), held(1), new(shard))
		if c.fresh("0", time.Now()) == nil {
			t.Fatalf("a copy that is always in use was dropped when there were %d", i)
		}
		if n := len(c.young) + len(c.old); n > 100 {
			t.Fatalf("%d copies, want 100 at most", n)
		}
	}
	if c.fresh("9990", time.Now()) == nil {
		t.Error("a copy of late was dropped")
	}
}

// crossing is a cache of one key in which a number is session, fence and all.
type crossing struct {
	*cache
	shard *shard
}

func (c crossing) ask() lookup              { return c.begin("k") }
func (c crossing) answer(l lookup, n int64) { c.store(l, session(int(n)), held(n), c.shard) }
func (c crossing) none(l lookup, n int64)   { c.store(l, nil, held(n), c.shard) }
func (c crossing) saved(l lookup, n int64)  { c.storeSaved(l, session(int(n)), held(n), c.shard) }
func (c crossing) message(n int64)          { c.invalidate(Message{ID: "k", Fence: n}) }
func (c crossing) logout(n int64)           { c.invalidate(Message{ID: "k", Fence: n, Deleted: true}) }
func (c crossing) stored(n int64)           { c.answer(c.ask(), n) }
func (c crossing) savedNow(n int64)         { c.saved(c.ask(), n) }

// crossings are orders in which questions, answers and messages may meet. In
// each the copy must not be held for current while the server holds something
// else.
var crossings = map[string]struct {
	do   func(crossing)
	want int // the session that may be used at once, 0 for none
}{
	"an answer": {func(c crossing) { c.stored(1) }, 1},
	"a message, then the answer from before": {func(c crossing) {
		l := c.ask()
		c.message(3)
		c.answer(l, 1)
	}, 0},
	"a message, then the answer that it told of": {func(c crossing) {
		l := c.ask()
		c.message(3)
		c.answer(l, 3)
	}, 3},
	"an answer, then its message, late": {func(c crossing) {
		c.stored(1)
		c.message(1)
	}, 1},
	"an answer, then a change": {func(c crossing) {
		c.stored(1)
		c.message(3)
	}, 0},
	"an answer, then a logout": {func(c crossing) {
		c.stored(1)
		c.logout(3)
	}, 0},
	"a save, then its message": {func(c crossing) {
		c.savedNow(2)
		c.message(2)
	}, 2},
	"a save whose message was first": {func(c crossing) {
		c.savedNow(1)
		l := c.ask()
		c.message(2)
		c.saved(l, 2)
	}, 2},
	"a save, and meanwhile the message of the one before": {func(c crossing) {
		c.savedNow(1)
		l := c.ask()
		c.message(1)
		c.saved(l, 2)
	}, 2},
	"a save, and meanwhile somebody else's": {func(c crossing) {
		l := c.ask()
		c.message(2)
		c.message(3)
		c.saved(l, 2)
	}, 0},
	"an answer from before a save comes after it": {func(c crossing) {
		l := c.ask()
		c.savedNow(2)
		c.answer(l, 1)
	}, 2},
	"a save, an answer from before it, and then the message of that": {func(c crossing) {
		c.savedNow(1)
		l := c.ask()
		c.savedNow(3)
		c.logout(2)
		c.answer(l, 1)
		c.message(1)
	}, 0},
	"a save whose message comes late": {func(c crossing) {
		c.savedNow(2)
		c.message(1)
		c.message(2)
	}, 0}, // the server may have begun anew with 1: it is asked
	"a save whose message was lost, and then another's": {func(c crossing) {
		c.savedNow(2)
		c.message(3)
		c.stored(3)
	}, 3},
	"none from before a login comes after it": {func(c crossing) {
		l := c.ask()
		c.savedNow(2)
		c.none(l, 0)
	}, 2},
	"an answer from before a logout here comes after it": {func(c crossing) {
		l := c.ask()
		c.storeSaved(c.ask(), nil, held(2), c.shard)
		c.answer(l, 1)
	}, 0},
	"an answer to a question from before the subscription": {func(c crossing) {
		l := c.ask()
		c.subscribe()
		c.answer(l, 1)
	}, 0},
	"an answer, and a subscription that is heard": {func(c crossing) {
		c.subscribe()
		c.stored(1)
		c.shard.heard.Store(&period{until: time.Now().Add(time.Hour)})
	}, 1},
	"the server begins anew: a message": {func(c crossing) {
		c.stored(9)
		c.message(1)
	}, 0},
	"the server begins anew: a message, and the answer to a question after it": {func(c crossing) {
		c.stored(9)
		c.message(1)
		c.stored(1)
	}, 1},
	"the server begins anew, and changes on": {func(c crossing) {
		c.stored(9)
		c.message(1)
		c.stored(1)
		c.message(2)
	}, 0},
}

func TestAnswersAndMessagesCross(t *testing.T) {
	for name, c := range crossings {
		t.Run(name, func(t *testing.T) {
			all := crossing{newCache(10), new(shard)}
			c.do(all)
			got := 0
			if s := all.fresh("k", time.Now()); s != nil {
				_, _ = fmt.Sscan(s.ID, &got)
			}
			if got != c.want {
				t.Errorf("the copy in use is %d, want %d", got, c.want)
			}
		})
	}
}

// TestElapsedSeesSleep: a machine that slept has a monotonic clock that did
// not.
func TestElapsedSeesSleep(t *testing.T) {
	then := time.Now()
	slept := then.Round(0).Add(time.Hour) // no monotonic reading
	if d := elapsed(then, slept); d < time.Hour {
		t.Errorf("elapsed: %v, want an hour", d)
	}
}

// lossCases are what happens between a question and its answer, which is an
// earlier state of the login than the copy at hand before.
var lossCases = map[string]struct {
	meanwhile func(crossing)
	isLost    bool
}{
	"nothing":                                {func(crossing) {}, true},
	"the message of the copy's save, late":   {func(c crossing) { c.message(2) }, true},
	"the message of the save before, late":   {func(c crossing) { c.message(1) }, true},
	"a save of this process, a later copy":   {func(c crossing) { c.savedNow(3) }, false},
	"an answer that brings another copy":     {func(c crossing) { c.stored(3) }, false},
	"the message of a logout after the copy": {func(c crossing) { c.logout(3) }, false},
}

// TestLossIsRecognized: a server that answers with less than was known before it
// was asked has lost a save. Messages come late on a busy machine, and those of
// saves from before the question must not hide the loss.
func TestLossIsRecognized(t *testing.T) {
	for name, row := range lossCases {
		t.Run(name, func(t *testing.T) {
			c := crossing{newCache(100), new(shard)}
			login := session(1)
			later := *login
			later.AccessTokenExpiresAt = login.AccessTokenExpiresAt.Add(time.Hour)
			c.storeSaved(c.ask(), &later, held(2), c.shard)
			l := c.ask()
			row.meanwhile(c)
			if kept := c.newerThan(l, login, held(1)); (kept == &later) != row.isLost || (kept != nil) != row.isLost {
				t.Errorf("taken for lost: %v, want %v", kept, row.isLost)
			}
		})
	}
}
