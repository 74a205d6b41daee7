package main

import (
	"cmp"
	"slices"
	"time"
)

// interleave calls f for each peer in each of n rounds. The order is another in
// every round, so that whatever disturbs the machine disturbs all alike.
func interleave(n int, peers []*peer, f func(*peer) error) error {
	for round := range n {
		for i := range peers {
			if err := f(peers[(i+round)%len(peers)]); err != nil {
				return err
			}
		}
	}
	return nil
}

// quantile returns the value below which the share q of values lies, 0 if there
// are none.
func quantile[T cmp.Ordered](values []T, q float64) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func median[T cmp.Ordered](values []T) T { return quantile(values, 0.5) }

// ratios divides what was measured in the same round, which is steadier on a
// noisy machine than dividing medians.
func ratios(values, by []float64) []float64 {
	out := make([]float64, min(len(values), len(by)))
	for i := range out {
		out[i] = values[i] / by[i]
	}
	return out
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
