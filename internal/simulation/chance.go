package simulation

import (
	"time"
	"unsafe"
)

// dice are a stream of numbers that a seed and a name decide. Every actor of
// the simulation throws its own, one for each kind of thing it does, so that
// what one draws does not depend on who else drew before: within one instant
// the scheduler runs goroutines in any order.
type dice struct{ state uint64 }

func (d *dice) next() uint64 { // splitmix64
	d.state += 0x9e3779b97f4a7c15
	return mix(d.state)
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// diceFor returns the dice that the parts name.
func diceFor(parts ...uint64) *dice {
	var state uint64
	for _, part := range parts {
		state = mix(state ^ mix(part+0x9e3779b97f4a7c15))
	}
	return &dice{state: state}
}

// below returns a number from 0 to n-1.
func (d *dice) below(n int) int { return int(d.next() % uint64(n)) }

// chance is true with probability p.
func (d *dice) chance(p float64) bool { return float64(d.next()>>11)/(1<<53) < p }

// between returns a time from lo to hi. It has nanoseconds: two things that
// happen at the same instant have been sent there by somebody, not by chance.
func (d *dice) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(d.next()%uint64(hi-lo+1))
}

func pick[T any](d *dice, choice ...T) T { return choice[d.below(len(choice))] }

// systemTime is what time.Now returns on a machine whose wall clock is off by
// skew, in whole seconds: a wall clock reading that is wrong and a monotonic one
// that no adjustment touches. The Times of a bubble have no monotonic reading,
// and package time has no way to make a Time with two given readings, hence
// the look into its representation. TestSystemTime checks that it is still so.
func systemTime(now time.Time, skew time.Duration) time.Time {
	const from1885to1970 = 85*365*24*60*60 + 20*24*60*60
	t := now.Round(0).Local()
	words := (*struct {
		wall uint64 // 1 bit: has a monotonic reading; 33 bits: seconds since 1885; 30 bits: nanoseconds
		ext  int64  // the monotonic reading
	})(unsafe.Pointer(&t))
	words.wall = 1<<63 | uint64(now.Unix()+int64(skew/time.Second)+from1885to1970)<<30 | uint64(now.Nanosecond())
	words.ext = now.UnixNano()
	return t
}
