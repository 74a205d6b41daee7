package policy

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestStateAtTheEdgesOfEachWindow(t *testing.T) {
	const ns = time.Nanosecond
	for _, row := range []struct {
		promise string
		windows Windows
		left    time.Duration
		want    Freshness
	}{
		{"a new token is fresh", Windows{Lifetime: 5 * time.Minute}, 5 * time.Minute, Fresh},
		{"a fifth of five minutes is a minute", Windows{Lifetime: 5 * time.Minute}, time.Minute, Early},
		{"before that it is fresh", Windows{Lifetime: 5 * time.Minute}, time.Minute + ns, Fresh},
		{"the window of an hour is a minute too", Windows{Lifetime: time.Hour}, time.Minute + ns, Fresh},
		{"the last ten seconds are late", Windows{Lifetime: 5 * time.Minute}, 10 * time.Second, Late},
		{"before that it is early", Windows{Lifetime: 5 * time.Minute}, 10*time.Second + ns, Early},
		{"late is a tenth of a short life", Windows{Lifetime: 10 * time.Second}, time.Second, Late},
		{"early is a fifth of a short life", Windows{Lifetime: 10 * time.Second}, 2 * time.Second, Early},
		{"and fresh before", Windows{Lifetime: 10 * time.Second}, 2*time.Second + ns, Fresh},
		{"a nanosecond left is late", Windows{Lifetime: 5 * time.Minute}, ns, Late},
		{"none left is expired", Windows{Lifetime: 5 * time.Minute}, 0, Expired},
		{"past is expired", Windows{Lifetime: 5 * time.Minute}, -time.Hour, Expired},
		{"a negative window is none", Windows{Before: -1, Lifetime: 5 * time.Minute}, 10*time.Second + ns, Fresh},
		{"a negative window leaves the last moments", Windows{Before: -1, Lifetime: 5 * time.Minute}, 10 * time.Second, Late},
		{"a window of the user's own counts", Windows{Before: 2 * time.Minute, Lifetime: 5 * time.Minute}, 2 * time.Minute, Early},
		{"up to half of a lifetime that was measured", Windows{Before: time.Hour, Lifetime: 5 * time.Minute, Measured: true}, 150*time.Second + ns, Fresh},
		{"and from there on", Windows{Before: time.Hour, Lifetime: 5 * time.Minute, Measured: true}, 150 * time.Second, Early},
		{"a lifetime that was only seen does not cut it", Windows{Before: time.Hour, Lifetime: time.Minute}, 40 * time.Minute, Early},
		{"without any lifetime there are no windows", Windows{}, ns, Fresh},
	} {
		t.Run(row.promise, func(t *testing.T) {
			if got := row.windows.State(row.left); got != row.want {
				t.Errorf("State = %v, want %v", got, row.want)
			}
		})
	}
}

func TestDueLiesInTheFirstThreeQuartersOfTheEarlyWindow(t *testing.T) {
	w := Windows{Lifetime: 5 * time.Minute}
	for spread, want := range map[float64]time.Duration{0: time.Minute, 0.5: 37500 * time.Millisecond, 1: 15 * time.Second} {
		if got := w.Due(spread); got != want {
			t.Errorf("Due(%g) = %v, want %v", spread, got, want)
		}
	}
	if got := (Windows{Before: -1, Lifetime: 5 * time.Minute}).Due(0.5); got != 0 {
		t.Errorf("without an early window due %v before expiry, want never", got)
	}
}

func TestARequestThatWaitsLeavesWithATenthOfTheLateWindowToSpare(t *testing.T) {
	w := Windows{Lifetime: 5 * time.Minute}
	for left, want := range map[time.Duration]time.Duration{8 * time.Second: 7 * time.Second, time.Second: 0, 0: -time.Second} {
		if got := w.WaitAtMost(left); got != want {
			t.Errorf("with %v left it waits %v, want %v", left, got, want)
		}
	}
}

// sight is a session that is seen at noon.
type sight struct{ created, expires time.Duration }

func (l *Lifetimes) observe(s sight) { l.Observe(s.expires, s.expires-s.created) }

func TestLifetimeIsLearned(t *testing.T) {
	for _, row := range []struct {
		promise string
		seen    []sight // in this order
		want    time.Duration
	}{
		{"from the time left at first sight", []sight{{-time.Hour, 20 * time.Second}}, 20 * time.Second},
		{"from created_at where that can be a lifetime", []sight{{-4 * time.Minute, time.Minute}}, 5 * time.Minute},
		{"from created_at of a minute, the least", []sight{{-30 * time.Second, 30 * time.Second}}, time.Minute},
		{"but not where it is too long", []sight{{-4*time.Minute - 1, time.Minute}}, time.Minute},
		{"nor too short", []sight{{-30*time.Second + 1, 30 * time.Second}}, 30 * time.Second},
		{"the longest seen counts", []sight{{-time.Hour, 20 * time.Second}, {-time.Hour, 2 * time.Minute}, {-time.Hour, time.Second}}, 2 * time.Minute},
		{"created_at counts the first time only", []sight{{-time.Hour, 20 * time.Second}, {-4 * time.Minute, time.Minute}}, time.Minute},
		{"an expired session says nothing", []sight{{-time.Hour, -time.Second}}, 0},
	} {
		t.Run(row.promise, func(t *testing.T) {
			var l Lifetimes
			for _, s := range row.seen {
				l.observe(s)
			}
			if got, want := l.Windows(7), (Windows{Before: 7, Lifetime: row.want}); got != want || l.Known() != row.want {
				t.Errorf("Windows = %+v, Known = %v, want %+v", got, l.Known(), want)
			}
		})
	}
}

func TestAMeasuredLifetimeOverrulesWhatWasSeen(t *testing.T) {
	var l Lifetimes
	want := func(lifetime time.Duration) {
		t.Helper()
		if got := l.Windows(0); got.Lifetime != lifetime || !got.Measured || l.Known() != lifetime {
			t.Errorf("Windows = %+v, Known = %v, want %v, measured", got, l.Known(), lifetime)
		}
	}
	l.observe(sight{-time.Hour, 10 * time.Minute})
	l.Measure(2 * time.Second)
	want(2 * time.Second)
	l.Measure(0)
	l.Measure(-time.Second)
	want(2 * time.Second) // what had expired measures nothing
	l.observe(sight{-time.Hour, 10 * time.Minute})
	want(2 * time.Second)
	l.Measure(time.Hour)
	want(time.Hour)
}

func TestALongerLifetimeIsNotLostToAnotherGoroutine(t *testing.T) {
	var l Lifetimes
	done := make(chan struct{})
	for n := range 8 {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 1000 {
				l.observe(sight{-time.Hour, time.Duration(8*i + n + 1)})
			}
		}()
	}
	for range 8 {
		<-done
	}
	if l.Known() != 8000 {
		t.Errorf("Known = %d, want the longest, 8000", l.Known())
	}
}

const users = 10_000

// rush is the share of the users' refreshes that fall into the busiest second.
func rush(begins []time.Duration) float64 {
	perSecond := map[int]int{}
	most := 0
	for _, at := range begins {
		second := int(at / time.Second)
		perSecond[second]++
		most = max(most, perSecond[second])
	}
	return float64(most) / float64(len(begins))
}

// Sessions of five minutes that are born together, each in its own process, and
// used all the time.
func TestSessionsBornTogetherDoNotRefreshTogether(t *testing.T) {
	w := Windows{Lifetime: 5 * time.Minute}
	begins := make([]time.Duration, users)
	for cycle := 1; cycle <= 4; cycle++ {
		for user := range begins {
			spread := Spread(fmt.Sprint("session-", user), fmt.Sprint("token-", user, "-", cycle), uint64(user))
			if spread < 0 || spread >= 1 {
				t.Fatalf("a spread of %g", spread)
			}
			begins[user] += w.Lifetime - w.Due(spread)
		}
		switch busiest := rush(begins); {
		case cycle == 1 && busiest > 0.035:
			t.Errorf("%.1f percent refresh in one second of the first cycle, want 3.5 at most", 100*busiest)
		case cycle == 4 && busiest > 3*meanShare(begins):
			t.Errorf("in the fourth cycle %.1f times the mean refresh in one second, want 3 at most", busiest/meanShare(begins))
		}
	}
}

// meanShare is the share of each second, if they all had the same.
func meanShare(begins []time.Duration) float64 {
	return 1 / float64(int((slices.Max(begins)-slices.Min(begins))/time.Second)+1)
}

func TestProcessesThatShareASessionAreCloseAndNotAtOnce(t *testing.T) {
	w := Windows{Lifetime: 5 * time.Minute}
	var begins []time.Duration
	for process := range uint64(64) {
		begins = append(begins, w.Due(Spread("session", "token", process<<40)))
	}
	apart := slices.Max(begins) - slices.Min(begins)
	if apart > 4500*time.Millisecond || apart < 3*time.Second {
		t.Errorf("the first of 64 is %v before the last, want a tenth of 45 s at most, and most of that", apart)
	}
	slices.Sort(begins)
	if n := len(slices.Compact(begins)); n != 64 {
		t.Errorf("64 processes begin at %d times", n)
	}
}

func TestSpreadIsTheSameWheneverItIsAsked(t *testing.T) {
	at := Spread("id", "token", 1)
	if Spread("id", "token", 1) != at {
		t.Error("it moved")
	}
	for what, other := range map[string]float64{
		"another session": Spread("jd", "token", 1), "another token": Spread("id", "tokem", 1), "another process": Spread("id", "token", 2),
	} {
		if other == at {
			t.Errorf("%s is at the same place", what)
		}
	}
}

func TestJitterIsAPartOfWhatItIsGiven(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for n := range 1000 {
		d := Jitter(time.Second, time.Second/5, "token", 7, n)
		if d != Jitter(time.Second, time.Second/5, "token", 7, n) {
			t.Fatal("the same attempt has two pauses")
		}
		least, most = min(least, d), max(most, d)
	}
	if least < time.Second || least > 1010*time.Millisecond || most < 1190*time.Millisecond || most > 1200*time.Millisecond {
		t.Errorf("from %v to %v, want the whole of 1 s to 1.2 s", least, most)
	}
	if Jitter(time.Second, time.Second/5, "a", 7, 1) == Jitter(time.Second, time.Second/5, "b", 7, 1) || Jitter(time.Second, time.Second/5, "a", 7, 1) == Jitter(time.Second, time.Second/5, "a", 9, 1) {
		t.Error("another token or process pauses for as long")
	}
	if Jitter(0, 0, "token", 7, 1) != 0 {
		t.Error("no pause became one")
	}
}

// Bits that depend on little would put sessions with similar ids at one place.
func TestHashMixesEveryByteIntoEveryBit(t *testing.T) {
	const texts = 4096
	var set [64]int
	for n := range texts {
		h := Hash(fmt.Sprintf("session-%04d", n), 0)
		for bit := range set {
			set[bit] += int(h >> bit & 1)
		}
	}
	for bit, n := range set {
		if n < texts*45/100 || n > texts*55/100 {
			t.Errorf("bit %d is set in %d of %d", bit, n, texts)
		}
	}
	if Hash("", 1) == Hash("", 2) || Hash("ab", 1) == Hash("ba", 1) {
		t.Error("two inputs have one hash")
	}
}

func TestBackoffDoublesUpToItsLimit(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		0: time.Second, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 1 << 40: 30 * time.Second,
	} {
		if got := Backoff(failures, time.Second, 30*time.Second); got != want {
			t.Errorf("after %d failures %v, want %v", failures, got, want)
		}
	}
}
