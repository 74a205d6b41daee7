package policy

import (
	"errors"
	"io"
	"testing"
	"time"
)

// within fails unless the pause that ends at until is want or up to a tenth less.
func within(t *testing.T, until, now time.Time, want time.Duration) {
	t.Helper()
	if pause := until.Sub(now); pause < want-want/10 || pause > want {
		t.Errorf("it pauses for %v, want %v or up to a tenth less", pause, want)
	}
}

func TestCooldownGrowsWithFailuresInARow(t *testing.T) {
	for name, row := range map[string]struct {
		transient bool
		pauses    []time.Duration
	}{
		"quickly for what is likely to pass": {true, []time.Duration{
			250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second,
		}},
		"slowly for anything else": {false, []time.Duration{
			time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var c Cooldown
			now := noon
			for _, want := range row.pauses {
				until := c.Fail("token", io.EOF, row.transient, 0, now, 7)
				within(t, until, now, want)
				now = until
			}
		})
	}
}

func TestCooldownBindsItsTokenUntilItsEnd(t *testing.T) {
	var c Cooldown
	if c.Active("", noon) != nil || c.Active("token", noon) != nil || !c.Until().IsZero() {
		t.Error("nothing failed, and something is bound")
	}
	until := c.Fail("token", io.EOF, true, 0, noon, 7)
	if err := c.Active("token", until.Add(-1)); err != io.EOF {
		t.Errorf("before its end %v, want the error of the attempt", err)
	}
	if err := c.Active("token", until); err != nil {
		t.Errorf("at its end %v", err)
	}
	if err := c.Active("another", noon); err != nil {
		t.Errorf("another token, of a new login, is bound: %v", err)
	}
	if c.Until() != until {
		t.Errorf("Until = %v, want %v", c.Until(), until)
	}
}

func TestCooldownKeepsTheLastError(t *testing.T) {
	var c Cooldown
	last := errors.New("last")
	c.Fail("token", io.EOF, true, 0, noon, 7)
	c.Fail("token", last, true, 0, noon, 7)
	if err := c.Active("token", noon); err != last {
		t.Errorf("got %v", err)
	}
}

func TestCooldownBeginsAnewForAnotherTokenAndAfterAQuietMinute(t *testing.T) {
	for name, row := range map[string]struct {
		token string
		quiet time.Duration // after the end of the second pause
		want  time.Duration
	}{
		"the same token within a minute":   {"token", time.Minute, 4 * time.Second},
		"the same token after that":        {"token", time.Minute + 1, time.Second},
		"another token":                    {"another", 0, time.Second},
		"the same token without any quiet": {"token", 0, 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var c Cooldown
			c.Fail("token", io.EOF, false, 0, noon, 7)
			now := c.Fail("token", io.EOF, false, 0, noon, 7).Add(row.quiet)
			within(t, c.Fail(row.token, io.EOF, false, 0, now, 7), now, row.want)
		})
	}
}

func TestRetryAfterIsObeyedUpToAnHour(t *testing.T) {
	var short, long Cooldown
	within(t, short.Fail("token", io.EOF, false, time.Millisecond, noon, 7), noon, time.Second)
	if pause := long.Fail("token", io.EOF, false, time.Minute, noon, 7).Sub(noon); pause < time.Minute || pause > 72*time.Second {
		t.Errorf("Retry-After of a minute pauses for %v, want that or up to a fifth more", pause)
	}
	for _, retryAfter := range []time.Duration{time.Hour, 1<<63 - 1} {
		var c Cooldown
		if until := c.Fail("token", io.EOF, false, min(retryAfter, 1<<61), noon, 7); until != noon.Add(time.Hour) {
			t.Errorf("Retry-After of %v binds until %v, want an hour", retryAfter, until)
		}
	}
}

func TestProcessesDoNotRetryAtTheSameMoment(t *testing.T) {
	var a, b Cooldown
	if a.Fail("token", io.EOF, true, 0, noon, 7) == b.Fail("token", io.EOF, true, 0, noon, 8) {
		t.Error("two processes try again at the same moment")
	}
	if a.Fail("token", io.EOF, true, 0, noon, 7) == noon.Add(2*a.Until().Sub(noon)) {
		t.Error("a pause has no jitter of its own")
	}
}
