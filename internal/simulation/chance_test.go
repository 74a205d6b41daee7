package simulation

import (
	"testing"
	"time"
)

func TestSystemTime(t *testing.T) {
	now := time.Date(2000, 1, 2, 3, 4, 5, 678, time.UTC)
	later := now.Add(time.Minute)
	for _, skew := range []time.Duration{0, time.Hour, -3 * time.Hour} {
		before, after := systemTime(now, 0), systemTime(later, skew)
		if got, want := after.Round(0), later.Add(skew); !got.Equal(want) {
			t.Errorf("wrong by %v, the wall clock says %v, want %v", skew, got, want)
		}
		if got := after.Sub(before); got != time.Minute {
			t.Errorf("wrong by %v, a minute by the monotonic clock took %v", skew, got)
		}
	}
}
