package remote

import (
	"fmt"
	"testing"
	"time"
)

func TestCopiesAreBounded(t *testing.T) {
	c := copies{max: 100}
	for i := range 10_000 {
		id := fmt.Sprint(i)
		c.learn(c.begin(id), session(i), newStamp(), false)
		if c.fresh("0", time.Now(), maxTrust) == nil {
			t.Fatalf("a copy that is always in use was dropped when there were %d", i)
		}
		if n := len(c.young) + len(c.old); n > 100 {
			t.Fatalf("%d copies, want 100 at most", n)
		}
	}
	if c.fresh("9990", time.Now(), maxTrust) == nil {
		t.Error("a copy of late was dropped")
	}
}

var before, own, others = newStamp(), newStamp(), newStamp()

// crossings are orders in which questions, answers and messages may meet. In
// each the copy must not be held for current while the server holds something
// else.
var crossings = map[string]struct {
	do   func(*copies)
	want int // the session that may be used at once, 0 for none
}{
	"an answer": {func(c *copies) { c.learn(c.begin("k"), session(1), before, false) }, 1},
	"a message, then the answer from before": {func(c *copies) {
		l := c.begin("k")
		c.hear(Message{ID: "k", Stamp: others})
		c.learn(l, session(1), before, false)
	}, 0},
	"a message, then the answer that it told of": {func(c *copies) {
		l := c.begin("k")
		c.hear(Message{ID: "k", Stamp: others})
		c.learn(l, session(3), others, false)
	}, 3},
	"an answer, then its message, late": {func(c *copies) {
		c.learn(c.begin("k"), session(1), before, false)
		c.hear(Message{ID: "k", Stamp: before})
	}, 1},
	"an answer, then a change": {func(c *copies) {
		c.learn(c.begin("k"), session(1), before, false)
		c.hear(Message{ID: "k", Stamp: others})
	}, 0},
	"an answer, then a logout": {func(c *copies) {
		c.learn(c.begin("k"), session(1), before, false)
		c.hear(Message{ID: "k", Stamp: others, Deleted: true})
	}, 0},
	"a save, then its message": {func(c *copies) {
		c.learn(c.begin("k"), session(2), own, true)
		c.hear(Message{ID: "k", Stamp: own})
	}, 2},
	"a save whose message was first": {func(c *copies) {
		c.learn(c.begin("k"), session(1), before, true)
		l := c.begin("k")
		c.hear(Message{ID: "k", Stamp: own})
		c.learn(l, session(2), own, true)
	}, 2},
	"a save, and meanwhile the message of the one before": {func(c *copies) {
		c.learn(c.begin("k"), session(1), before, true)
		l := c.begin("k")
		c.hear(Message{ID: "k", Stamp: before})
		c.learn(l, session(2), own, true)
	}, 0},
	"a save, and meanwhile somebody else's": {func(c *copies) {
		l := c.begin("k")
		c.hear(Message{ID: "k", Stamp: own})
		c.hear(Message{ID: "k", Stamp: others})
		c.learn(l, session(2), own, true)
	}, 0},
	"an answer from before a save comes after it": {func(c *copies) {
		l := c.begin("k")
		c.learn(c.begin("k"), session(2), own, true)
		c.learn(l, session(1), before, false)
	}, 0},
	"an answer from before a save comes after it, and its message too": {func(c *copies) {
		c.learn(c.begin("k"), session(1), before, true)
		l := c.begin("k")
		c.learn(c.begin("k"), session(2), own, true)
		c.hear(Message{ID: "k", Stamp: before})
		c.learn(l, session(1), before, false)
	}, 0},
	"a save, an answer from before it, and then the message of that": {func(c *copies) {
		c.learn(c.begin("k"), session(1), before, true)
		l := c.begin("k")
		c.learn(c.begin("k"), session(2), own, true)
		c.hear(Message{ID: "k", Stamp: others, Deleted: true})
		c.learn(l, session(1), before, false)
		c.hear(Message{ID: "k", Stamp: before})
	}, 0},
	"a save whose message comes late": {func(c *copies) {
		c.learn(c.begin("k"), session(2), own, true)
		c.hear(Message{ID: "k", Stamp: before})
		c.hear(Message{ID: "k", Stamp: own})
	}, 2},
	"a save whose message was lost, and then another's": {func(c *copies) {
		c.learn(c.begin("k"), session(2), own, true)
		c.hear(Message{ID: "k", Stamp: others})
		c.learn(c.begin("k"), session(3), others, false)
	}, 3},
	"none from before a login comes after it": {func(c *copies) {
		l := c.begin("k")
		c.learn(c.begin("k"), session(2), own, true)
		c.learn(l, nil, Stamp{}, false)
	}, 0},
	"an answer to a question from before the subscription": {func(c *copies) {
		l := c.begin("k")
		c.subscribed()
		c.learn(l, session(1), before, false)
	}, 0},
	"an answer, and a subscription that was proven": {func(c *copies) {
		c.subscribed()
		c.learn(c.begin("k"), session(1), before, false)
		c.prove(time.Now().Add(time.Hour))
	}, 1},
}

func TestAnswersAndMessagesCross(t *testing.T) {
	for name, c := range crossings {
		t.Run(name, func(t *testing.T) {
			all := &copies{max: 10}
			c.do(all)
			got := 0
			if s := all.fresh("k", time.Now(), maxTrust); s != nil {
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
