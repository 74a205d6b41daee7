package walletauth

import (
	"net/http"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestFreshnessAtTheEdgesOfEachWindow(t *testing.T) {
	const ns = time.Nanosecond
	for _, row := range []struct {
		promise string
		policy  policy
		left    time.Duration
		want    freshness
	}{
		{"a new token is fresh", policy{lifetime: 5 * time.Minute}, 5 * time.Minute, fresh},
		{"a fifth of five minutes is a minute", policy{lifetime: 5 * time.Minute}, time.Minute, early},
		{"before that it is fresh", policy{lifetime: 5 * time.Minute}, time.Minute + ns, fresh},
		{"an hour's window is a minute too", policy{lifetime: time.Hour}, time.Minute + ns, fresh},
		{"the last ten seconds are late", policy{lifetime: 5 * time.Minute}, 10 * time.Second, late},
		{"before that it is early", policy{lifetime: 5 * time.Minute}, 10*time.Second + ns, early},
		{"late is a tenth of a short life", policy{lifetime: 10 * time.Second}, time.Second, late},
		{"early is a fifth of a short life", policy{lifetime: 10 * time.Second}, 2 * time.Second, early},
		{"and fresh before", policy{lifetime: 10 * time.Second}, 2*time.Second + ns, fresh},
		{"a nanosecond left is late", policy{lifetime: 5 * time.Minute}, ns, late},
		{"none left is expired", policy{lifetime: 5 * time.Minute}, 0, expired},
		{"past is expired", policy{lifetime: 5 * time.Minute}, -time.Hour, expired},
		{"a negative window is none", policy{before: -1, lifetime: 5 * time.Minute}, 10*time.Second + ns, fresh},
		{"a negative window leaves the last moments", policy{before: -1, lifetime: 5 * time.Minute}, 10 * time.Second, late},
		{"a window of the user's own counts", policy{before: 2 * time.Minute, lifetime: 5 * time.Minute}, 2 * time.Minute, early},
		{"up to half of a lifetime that was measured", policy{before: time.Hour, lifetime: 5 * time.Minute, measured: true}, 150*time.Second + ns, fresh},
		{"and from there on", policy{before: time.Hour, lifetime: 5 * time.Minute, measured: true}, 150 * time.Second, early},
		{"a lifetime that was only seen does not cut it", policy{before: time.Hour, lifetime: time.Minute}, 40 * time.Minute, early},
		{"without any lifetime there are no windows", policy{}, ns, fresh},
	} {
		t.Run(row.promise, func(t *testing.T) {
			if got := row.policy.judge(noon.Add(row.left), noon); got != row.want {
				t.Errorf("judge = %v, want %v", got, row.want)
			}
		})
	}
}

func TestDueInEndsWhereTheWindowsBegin(t *testing.T) {
	p := policy{lifetime: 5 * time.Minute}
	if got := p.dueIn(noon.Add(5*time.Minute), noon); got != 4*time.Minute {
		t.Errorf("due in %v, want 4m", got)
	}
	p.before = -1
	if got := p.dueIn(noon.Add(5*time.Minute), noon); got != 290*time.Second {
		t.Errorf("without an early window due in %v, want 4m50s", got)
	}
}

func TestLastCallLeavesATenthOfTheLateWindow(t *testing.T) {
	p := policy{lifetime: 5 * time.Minute}
	if got := p.lastCall(noon.Add(8*time.Second), noon); got != 7*time.Second {
		t.Errorf("last call in %v, want 7s", got)
	}
}

func session(created, expires time.Duration) *Session {
	return &Session{CreatedAt: noon.Add(created), AccessTokenExpiresAt: noon.Add(expires)}
}

func TestLifetimeIsLearned(t *testing.T) {
	for _, row := range []struct {
		promise string
		seen    []*Session // in this order, at noon
		want    time.Duration
	}{
		{"from the time left at first sight", []*Session{session(-time.Hour, 20*time.Second)}, 20 * time.Second},
		{"from created_at where that can be a lifetime", []*Session{session(-4*time.Minute, time.Minute)}, 5 * time.Minute},
		{"from created_at of a minute, the least", []*Session{session(-30*time.Second, 30*time.Second)}, time.Minute},
		{"but not where it is too long", []*Session{session(-5*time.Minute, time.Minute)}, time.Minute},
		{"nor too short", []*Session{session(-30*time.Second, 10*time.Second)}, 10 * time.Second},
		{"the longest seen counts", []*Session{session(-time.Hour, 20*time.Second), session(-time.Hour, 2*time.Minute), session(-time.Hour, time.Second)}, 2 * time.Minute},
		{"created_at is asked the first time only", []*Session{session(-time.Hour, 20*time.Second), session(-4*time.Minute, time.Minute)}, time.Minute},
		{"an expired session says nothing", []*Session{session(-time.Hour, -time.Second)}, 0},
	} {
		t.Run(row.promise, func(t *testing.T) {
			var l lifetime
			for _, s := range row.seen {
				l.sight(s, noon)
			}
			if got := l.policy(0); got.lifetime != row.want || got.measured {
				t.Errorf("policy = %+v, want lifetime %v, not measured", got, row.want)
			}
		})
	}
}

func TestAMeasuredLifetimeOverrulesWhatWasSeen(t *testing.T) {
	var l lifetime
	l.sight(session(-time.Hour, 10*time.Minute), noon)
	l.measure(session(0, 2*time.Second), noon)
	if got := l.policy(0); got.lifetime != 2*time.Second || !got.measured {
		t.Errorf("policy = %+v, want the two seconds that were measured", got)
	}
	l.measure(session(0, -time.Second), noon)
	if got := l.policy(0); got.lifetime != 2*time.Second {
		t.Errorf("a session that had expired measured %v", got.lifetime)
	}
}

func TestSkewMovesOnlyAsFarAsItMust(t *testing.T) {
	const s = time.Second
	for _, row := range []struct {
		promise              string
		before               time.Duration
		date, sent, received time.Duration // after noon
		want                 time.Duration
	}{
		{"a right clock stays right", 0, 0, 100 * time.Millisecond, 300 * time.Millisecond, 0},
		{"also at the end of the second", 0, 0, 900 * time.Millisecond, 999 * time.Millisecond, 0},
		{"a date that is ahead", 0, 600 * s, 0, s, 599 * s},
		{"a date that is behind", 0, -600 * s, 0, s, -599 * s},
		{"an estimate inside of the interval stays", 599500 * time.Millisecond, 600 * s, 0, s, 599500 * time.Millisecond},
		{"one outside moves to the near end", 700 * s, 600 * s, 0, s, 601 * s},
		{"a slow answer moves it less", 0, 600 * s, 0, 30 * s, 570 * s},
		{"a clock that was set back meanwhile teaches nothing", 5 * s, 0, 10 * s, 0, 5 * s},
	} {
		t.Run(row.promise, func(t *testing.T) {
			got := estimateSkew(row.before, noon.Add(row.date), noon.Add(row.sent), noon.Add(row.received))
			if got != row.want {
				t.Errorf("skew = %v, want %v", got, row.want)
			}
		})
	}
}

func TestServerClockIgnoresDatesItCannotRead(t *testing.T) {
	mock := clock.NewMock()
	mock.Set(noon)
	c := serverClock{clock: mock}
	for _, date := range []string{"", "yesterday", "2026-03-01T12:00:00Z", "Sun, 32 Mar 2026 12:00:00 GMT"} {
		c.learn(http.Header{"Date": {date}}, noon)
		if !c.now().Equal(noon) {
			t.Errorf("Date %q moved the clock to %v", date, c.now())
		}
	}
	c.learn(http.Header{"Date": {noon.Add(time.Hour).Format(http.TimeFormat)}}, noon)
	if want := noon.Add(time.Hour); !c.now().Equal(want) {
		t.Errorf("server's time is %v, want %v", c.now(), want)
	}
}

func FuzzDate(f *testing.F) {
	f.Add("Sun, 01 Mar 2026 12:00:00 GMT")
	f.Add("Sunday, 01-Mar-26 12:00:00 GMT")
	f.Add("Mon, 01 Jan 0000 00:00:00 GMT")
	f.Add("")
	f.Fuzz(func(t *testing.T, date string) {
		mock := clock.NewMock()
		mock.Set(noon)
		c := serverClock{clock: mock}
		c.learn(http.Header{"Date": {date}}, noon.Add(-time.Second))
		want, err := http.ParseTime(date)
		if err != nil {
			if !c.now().Equal(noon) {
				t.Fatalf("Date %q, which is none, moved the clock to %v", date, c.now())
			}
			return
		}
		// the server wrote the date within the second it names, while we waited
		if reach := want.Sub(noon).Abs(); reach < 200*365*24*time.Hour && c.now().Sub(want).Abs() > 2*time.Second {
			t.Fatalf("Date %q left the clock at %v", date, c.now())
		}
	})
}
