package load_test

import (
	"fmt"
	"math"
	"time"
)

// latencies are counts by length, in steps of 2 percent, so that ten minutes of
// them take no more memory than one second.
type latencies struct {
	counts [1024]int
	total  int
	max    time.Duration
}

const step = 1.02

func (l *latencies) add(d time.Duration) {
	i := int(math.Log(float64(max(d, time.Microsecond))/float64(time.Microsecond)) / math.Log(step))
	l.counts[min(i, len(l.counts)-1)]++
	l.total++
	l.max = max(l.max, d)
}

func (l *latencies) merge(other *latencies) {
	for i, n := range other.counts {
		l.counts[i] += n
	}
	l.total += other.total
	l.max = max(l.max, other.max)
}

// quantile is the length that a share of all do not exceed, 2 percent more at most.
func (l *latencies) quantile(share float64) time.Duration {
	left := int(math.Ceil(share * float64(l.total)))
	for i, n := range l.counts {
		if left -= n; left <= 0 {
			return time.Duration(math.Pow(step, float64(i+1)) * float64(time.Microsecond))
		}
	}
	return l.max
}

func (l *latencies) String() string {
	return fmt.Sprintf("p50 %v, p99 %v, max %v", round(l.quantile(0.5)), round(l.quantile(0.99)), round(l.max))
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
