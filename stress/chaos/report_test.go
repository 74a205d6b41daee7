//go:build linux

package chaos_test

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// report logs what was counted, and demands that nothing went wrong and that
// enough was done to it.
func (c *chaos) report(v verdict) {
	c.t.Helper()
	c.t.Log(c.table(v))
	for _, wrong := range c.ledger.wrong(v) {
		c.t.Error(wrong)
	}
	stats := c.api.Stats()
	if other := stats.Violations - stats.Reuses; other > 0 || stats.WrongUser > 0 {
		c.t.Errorf("%d violations other than a token sent twice: %q", other, c.api.Violations())
	}
	aimed := c.faults.of(killedInstead)
	switch {
	case c.grace == 0 && v.killers < aimed:
		c.t.Errorf("%d processes were killed instead of a reply, and %d had a refresh granted and not saved: this proves nothing", aimed, v.killers)
	case c.grace == 0 && v.lost < aimed:
		c.t.Errorf("%d processes were killed instead of a reply, and %d sessions were lost: this proves nothing", aimed, v.lost)
	case c.grace > 0 && stats.Repeats < aimed:
		c.t.Errorf("%d processes were killed instead of a reply, and %d refresh tokens came back within the grace: this proves nothing", aimed, stats.Repeats)
	}
	if n := len(c.fleet.order.Keys); stats.Refreshes < n {
		c.t.Errorf("%d refreshes for %d users: this proves nothing", stats.Refreshes, n)
	}
}

func (c *chaos) table(v verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d processes, %d users, %v of faults, -chaos.seed=%d", len(c.fleet.places), len(c.fleet.order.Keys), c.took.Round(time.Second), c.seed)
	line := func(n int, name string) { fmt.Fprintf(&b, "\n%8d  %s", n, name) }
	stats := c.api.Stats()
	line(c.ledger.requests, "requests that the workers sent and heard of")
	for _, kind := range sorted(c.ledger.failures) {
		line(c.ledger.failures[kind], "  failed: "+kind)
	}
	line(stats.Requests, "requests that the stand-in served, refreshes included")
	line(stats.Refreshes, "refreshes granted")
	line(stats.Repeats, "  granted again, within the grace")
	line(c.ledger.unsaved, "saves that failed, to be tried again")
	for _, name := range sorted(c.faults.n) {
		line(c.faults.n[name], name)
	}
	line(len(c.ledger.killed), "processes killed in all")
	line(v.killers, "  of these with a refresh that was granted and not saved")
	line(v.unsaved, "  such refreshes")
	line(v.tokens, "refresh tokens sent twice or more often")
	line(v.sent, "  how often, after the first time")
	line(v.lost, "sessions lost")
	line(v.lost-v.onTheWay-v.cutOff-v.stoodStill-len(v.unexplained), "  with a process that died between the commit and the save")
	line(v.onTheWay, "  with a process that died while its refresh was on the way to the commit")
	line(v.cutOff, "  with a lease that ended while its holder could not reach the store")
	line(v.stoodStill, "  after the grace, on a machine that stood still")
	line(len(v.unexplained), "  otherwise")
	fmt.Fprintf(&b, "\n%8v  until every key worked in every process, after the last fault", c.recovery.Round(time.Millisecond))
	return b.String()
}

func sorted(m map[string]int) (names []string) {
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
