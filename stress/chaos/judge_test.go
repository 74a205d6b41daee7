//go:build linux

package chaos_test

import (
	"testing"
	"time"
)

// TestLedgerExplains gives the ledger histories of one lost session, with a lease
// of 6 s: "old" is traded in for "new" at 10 s and comes back.
func TestLedgerExplains(t *testing.T) {
	const sec = time.Second
	type history struct {
		killed   time.Duration   // of who traded, 0: it lives
		saved    time.Duration   // of "new", 0: never
		saves    []time.Duration // of other keys, by who traded
		again    time.Duration   // when "old" came back
		stalls   []stall
		grace    time.Duration
		newer    bool // another token was granted meanwhile
		explains bool
	}
	for name, h := range map[string]history{
		"a kill before the save":                    {killed: 10 * sec, again: 17 * sec, explains: true},
		"a kill on the way to the commit":           {killed: 9 * sec, again: 17 * sec, explains: true},
		"not a kill after the save":                 {killed: 11 * sec, saved: 10 * sec, again: 17 * sec},
		"not a holder that lives":                   {again: 12 * sec},
		"a holder that saves nothing for 4 s":       {again: 17 * sec, saves: []time.Duration{11 * sec, 16 * sec}, explains: true},
		"a holder that saved last before the trade": {again: 13 * sec, saves: []time.Duration{8 * sec}, explains: true},
		"not a holder that saves other keys":        {again: 17 * sec, saves: []time.Duration{11 * sec, 14 * sec, 16 * sec}},
		"not a holder that had saved before":        {saved: 11 * sec, again: 17 * sec},
		"a holder that saves too late":              {saved: 18 * sec, again: 17 * sec, explains: true},
		"not a token that came back later":          {killed: 10 * sec, again: 17 * sec, newer: true},
		"not a kill within the grace":               {killed: 10 * sec, again: 45 * sec, grace: 30 * sec},
		"a machine that stands still in the grace":  {killed: 10 * sec, again: 45 * sec, grace: 30 * sec, stalls: []stall{{20 * sec, 6 * sec}}, explains: true},
		"not one that stood still before the trade": {killed: 10 * sec, again: 45 * sec, grace: 30 * sec, stalls: []stall{{9 * sec, 6 * sec}}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLedger(6*sec, h.grace)
			tr := &trade{session: &session{key: "user"}, process: "worker", used: "old", brought: "new", at: 10 * sec, saved: h.saved}
			l.trades["old"] = tr
			l.saves["worker"], l.stalls = h.saves, h.stalls
			if h.killed != 0 {
				l.killed["worker"] = h.killed
			}
			l.reuses = []reuse{{trade: tr, by: "another", at: h.again, last: !h.newer}}
			if v := l.judge(); v.lost != 1 || (len(v.unexplained) == 0) != h.explains {
				t.Errorf("%d lost, %d of them unexplained, want explained: %v", v.lost, len(v.unexplained), h.explains)
			}
		})
	}
}
