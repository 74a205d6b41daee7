package walletauth

import (
	"time"
)

// cooldown is when a refresh token that failed may be sent again. The zero value
// means now. A new login has another refresh token and is not bound by it.
type cooldown struct {
	refreshToken string
	failures     int // in a row
	until        time.Time
	err          error // of the last attempt
}

// cooldownMemory is for how long after its end a cooldown still counts as a
// failure in a row.
const cooldownMemory = time.Minute

// fail takes in a failure of refreshToken and returns until when it is left
// alone: 250 ms doubling to 4 s after what is likely to pass soon, 1 s doubling to
// 30 s after anything else, with up to a fifth of jitter; and no less than the
// server asks for, up to an hour.
func (c *cooldown) fail(refreshToken string, err error, now time.Time, process uint64) time.Time {
	if c.refreshToken != refreshToken || now.After(c.until.Add(cooldownMemory)) {
		*c = cooldown{refreshToken: refreshToken}
	}
	c.failures++
	c.err = err
	pause := backoff(c.failures, time.Second, 30*time.Second)
	if transient(err) {
		pause = backoff(c.failures, 250*time.Millisecond, 4*time.Second)
	}
	pause = min(jitter(max(pause, retryAfterOf(err)), refreshToken, process, c.failures), time.Hour)
	c.until = now.Add(pause)
	return c.until
}

// active returns the error of the last attempt while refreshToken is left alone.
func (c *cooldown) active(refreshToken string, now time.Time) error {
	if c.refreshToken == refreshToken && now.Before(c.until) {
		return c.err
	}
	return nil
}
