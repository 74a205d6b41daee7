package policy

import "time"

// Cooldown is when a refresh token that failed may be sent again. The zero value
// means now. A new login has another refresh token and is not bound by it.
type Cooldown struct {
	refreshToken string
	failures     int // in a row
	until        time.Time
	err          error // of the last attempt
}

// CooldownMemory is for how long after its end a cooldown still counts as a
// failure in a row.
const CooldownMemory = time.Minute

// Fail takes in a failure of refreshToken and returns until when it is left
// alone: 250 ms doubling to 4 s after what is likely to pass soon, 1 s doubling to
// 30 s after anything else, with up to a fifth of jitter; and no less than the
// server asks for, up to an hour.
func (c *Cooldown) Fail(refreshToken string, err error, transient bool, retryAfter time.Duration, now time.Time, process uint64) time.Time {
	if c.refreshToken != refreshToken || now.After(c.until.Add(CooldownMemory)) {
		*c = Cooldown{refreshToken: refreshToken}
	}
	c.failures++
	c.err = err
	pause := Backoff(c.failures, time.Second, 30*time.Second)
	if transient {
		pause = Backoff(c.failures, 250*time.Millisecond, 4*time.Second)
	}
	pause = min(Jitter(max(pause, retryAfter), refreshToken, process, c.failures), time.Hour)
	c.until = now.Add(pause)
	return c.until
}

// Active returns the error of the last attempt while refreshToken is left alone.
func (c *Cooldown) Active(refreshToken string, now time.Time) error {
	if c.refreshToken == refreshToken && now.Before(c.until) {
		return c.err
	}
	return nil
}

// Until is when the last cooldown ends.
func (c *Cooldown) Until() time.Time { return c.until }
