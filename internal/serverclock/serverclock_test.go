package serverclock

import (
	"net/http"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// localClock shows what the test set.
type localClock struct{ now time.Time }

func (c *localClock) Now() time.Time { return c.now }

func newClock() (*Clock, *localClock) {
	local := &localClock{noon}
	return &Clock{Local: local}, local
}

// date is a response's header that says the server's time is d after noon.
func date(d time.Duration) http.Header {
	return http.Header{"Date": {noon.Add(d).Format(http.TimeFormat)}}
}

// wantAhead demands that the server is taken to be ahead by d.
func (c *Clock) wantAhead(t *testing.T, d time.Duration) {
	t.Helper()
	if got := c.Now().Sub(c.LocalNow()); got != d {
		t.Errorf("the server is taken to be ahead by %v, want %v", got, d)
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

func TestClockIsTheLocalOneUntilItLearns(t *testing.T) {
	c, local := newClock()
	c.wantAhead(t, 0)
	local.now = time.Now()
	if got := c.LocalNow(); got != local.now.Round(0) {
		t.Errorf("%v has a monotonic reading", got)
	}
	if at := noon.Add(time.Hour); c.At(at) != at {
		t.Errorf("At(%v) = %v", at, c.At(at))
	}
}

func TestClockLearnsFromDate(t *testing.T) {
	c, local := newClock()
	c.ObserveDate(date(time.Hour), noon)
	c.wantAhead(t, time.Hour)
	if at := noon.Add(time.Minute); c.At(at) != at.Add(time.Hour) {
		t.Errorf("At(%v) = %v", at, c.At(at))
	}
	local.now = noon.Add(2 * time.Second) // the answer took two seconds
	c.ObserveDate(date(-time.Hour), noon)
	c.wantAhead(t, -time.Hour+time.Second) // the end of what is possible that is nearer
}

func TestClockIgnoresDatesThatSayNothing(t *testing.T) {
	for name, h := range map[string]http.Header{
		"none":          {},
		"empty":         {"Date": {""}},
		"words":         {"Date": {"yesterday"}},
		"RFC 3339":      {"Date": {"2026-03-01T12:00:00Z"}},
		"no such day":   {"Date": {"Sun, 32 Mar 2026 12:00:00 GMT"}},
		"from a cache":  {"Date": date(time.Hour)["Date"], "Age": {"7"}},
		"just cached":   {"Date": date(time.Hour)["Date"], "Age": {"0"}},
		"an odd Age":    {"Date": date(time.Hour)["Date"], "Age": {"old"}},
		"another field": {"Last-Modified": date(time.Hour)["Date"]},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newClock()
			c.ObserveDate(h, noon)
			c.wantAhead(t, 0)
		})
	}
}

// issued is a token that expires d after noon, received at noon.
func (c *Clock) issued(d time.Duration) (valid bool) {
	return c.ObserveIssued(noon.Add(d), noon, 5*time.Minute)
}

func TestATokenThatIsValidTeachesNothing(t *testing.T) {
	for _, ahead := range []time.Duration{0, time.Minute, -time.Hour} {
		c, _ := newClock()
		c.skew.Store(int64(ahead))
		if !c.issued(5 * time.Minute) {
			t.Errorf("a clock that is ahead by %v says that it has expired", ahead)
		}
		c.wantAhead(t, ahead)
	}
}

func TestADateThatSaysANewTokenHasExpiredIsForgotten(t *testing.T) {
	c, _ := newClock()
	c.ObserveDate(date(time.Hour), noon)
	if !c.issued(5 * time.Minute) {
		t.Error("by the local clock it is valid, and that counts again")
	}
	c.wantAhead(t, 0)
}

func TestALocalClockIsCorrectedByTwoTokensThatAgree(t *testing.T) {
	c, _ := newClock()
	if c.issued(-55 * time.Minute) {
		t.Error("the first may merely have an odd expiry")
	}
	c.wantAhead(t, 0)
	if !c.issued(-54 * time.Minute) { // a minute apart: the same skew
		t.Error("after the second it is valid")
	}
	c.wantAhead(t, -59*time.Minute)
}

func TestALocalClockStaysWhereTokensDisagree(t *testing.T) {
	const first, last = -55 * time.Minute, -54*time.Minute + 1
	for name, row := range map[string]struct {
		between func(c *Clock)
		last    time.Duration
	}{
		"more than a minute apart":        {func(*Clock) {}, last},
		"the other way round":             {func(*Clock) {}, first - time.Minute - 1},
		"a valid token came in between":   {func(c *Clock) { c.issued(time.Minute) }, first},
		"a Date came in between":          {func(c *Clock) { c.ObserveDate(date(0), noon) }, first},
		"another came in between":         {func(c *Clock) { c.issued(-40 * time.Minute) }, first},
		"an expiry that no Date explains": {func(c *Clock) { c.ObserveDate(date(0), noon); c.issued(first) }, first},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newClock()
			c.issued(first)
			row.between(c)
			if c.issued(row.last) {
				t.Error("the clock was corrected")
			}
			c.wantAhead(t, 0)
		})
	}
}

func TestADateIsBelievedMoreThanAnOddExpiry(t *testing.T) {
	c, _ := newClock()
	c.ObserveDate(date(time.Minute), noon)
	for range 3 { // both clocks say that it has expired
		if c.issued(-time.Second) {
			t.Error("it is called valid")
		}
	}
	c.wantAhead(t, time.Minute)
}

func TestALocalClockIsCorrectedAfterItsDateWasForgotten(t *testing.T) {
	c, _ := newClock()
	c.ObserveDate(date(time.Hour), noon)
	c.issued(5 * time.Minute) // refutes the Date
	c.issued(-55 * time.Minute)
	if !c.issued(-55 * time.Minute) {
		t.Error("two tokens that agree correct nothing")
	}
	c.wantAhead(t, -time.Hour)
}

func FuzzDate(f *testing.F) {
	f.Add("Sun, 01 Mar 2026 12:00:00 GMT")
	f.Add("Sunday, 01-Mar-26 12:00:00 GMT")
	f.Add("Mon, 01 Jan 0000 00:00:00 GMT")
	f.Add("")
	f.Fuzz(func(t *testing.T, date string) {
		c, _ := newClock()
		c.ObserveDate(http.Header{"Date": {date}}, noon.Add(-time.Second))
		want, err := http.ParseTime(date)
		if err != nil {
			if !c.Now().Equal(noon) {
				t.Fatalf("Date %q, which is none, moved the clock to %v", date, c.Now())
			}
			return
		}
		// the server wrote the date within the second it names, while we waited
		if reach := want.Sub(noon).Abs(); reach < 200*365*24*time.Hour && c.Now().Sub(want).Abs() > 2*time.Second {
			t.Fatalf("Date %q left the clock at %v", date, c.Now())
		}
	})
}
