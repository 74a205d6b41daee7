package load_test

import (
	"testing"
	"time"
)

// check holds what the stand-in has seen against when the requests were.
func (d *drive) check(t *testing.T, s seen) {
	t.Helper()
	if n := d.failed.Load(); n > 0 {
		t.Errorf("%d requests failed", n)
	}
	if s.Reuses > 0 || s.RefreshesRefused > 0 || len(s.Violations) > 0 {
		t.Errorf("%d refresh tokens were sent twice, %d refreshes were refused; violations: %q", s.Reuses, s.RefreshesRefused, s.Violations)
	}
	wrong, managed := 0, int(d.rounds())
	for i, refreshed := range s.Refreshed {
		if err := d.ledgers[i].explain(refreshed, managed, i < busy); err != "" && wrong < 10 {
			wrong++
			t.Errorf("session %d, %d requests: %d refreshes, %s", i, d.ledgers[i].requests, refreshed, err)
		}
	}
}

// explain says what is wrong with a number of refreshes after so many rounds,
// if anything.
func (l *ledger) explain(refreshed, rounds int, overlapping bool) string {
	most := l.possible
	if overlapping {
		most = l.mostOverall()
	}
	switch {
	case l.requests < rounds:
		return "and others were used more often"
	case l.needed < rounds-1:
		return "and its token ended hardly ever: this proves nothing"
	case refreshed < l.needed:
		return "fewer than the requests could do with"
	case refreshed > most:
		return "more than there can have been tokens that were due"
	}
	return ""
}

func report(t *testing.T, d *drive, s seen, marks []mark, took time.Duration) {
	all := d.latencies()
	t.Logf("%d sessions, %d callers, %.0f s: %d requests, %d refreshes, %.0f requests/s; every session at least %d times",
		len(d.ledgers), callers, took.Seconds(), all.total, s.Refreshes, float64(all.total)/took.Seconds(), d.rounds())
	t.Logf("latency of a request, its refresh included: %v; answers 401: %d; of these to requests under way for longer than a token lives: %d", all, s.Unauthorized, d.expired.Load())
	for _, m := range marks {
		t.Logf("at %v", m)
	}
}
