package policy

import (
	"slices"
	"time"
)

// A 401 with a new token is more likely the fault of the endpoint than of the
// token. So that such an endpoint does not have every request rotate the
// session, these bound the refreshes that 401s cause. Those that helped do not
// count: tokens may be revoked as often as the API likes.
const (
	rejectionLimit  = 3               // refreshes of a key in rejectionWindow that did not help
	rejectionWindow = 5 * time.Minute //
	unverifiedFor   = 5 * time.Second // a new token is not refreshed that is refused at once
	maxEndpoints    = 8               // remembered of a key
)

// Target is the endpoint of a request. Renew has the zero Target.
type Target struct{ Method, Path string }

// Rejections is what is remembered of the 401s of one key, as pure functions of
// the times. The zero value is ready to use.
type Rejections struct {
	refreshes []rejection
	endpoints []refusal
}

// rejection is a refresh that a 401 caused and that has not helped so far.
type rejection struct {
	accessToken string // the new one
	at          time.Time
}

// refusal is an endpoint that refused new tokens.
type refusal struct {
	target Target
	count  int // in a row
	until  time.Time
}

// Allows reports whether a 401 of t with accessToken may cause a refresh. A token
// that has expired since it was new is no reason to suspect t.
func (r *Rejections) Allows(t Target, accessToken string, expired bool, now time.Time) bool {
	r.expire(now)
	for _, e := range r.endpoints {
		if e.target == t && now.Before(e.until) {
			return false
		}
	}
	for _, c := range r.refreshes {
		if !expired && c.accessToken == accessToken && now.Sub(c.at) < unverifiedFor {
			return false
		}
	}
	return len(r.refreshes) < rejectionLimit
}

// Refreshed notes that a 401 caused a refresh, once for each new token. The same
// token again is a refresh of its own.
func (r *Rejections) Refreshed(accessToken string, same bool, now time.Time) {
	known := slices.ContainsFunc(r.refreshes, func(c rejection) bool { return c.accessToken == accessToken })
	if !known || same {
		r.refreshes = append(r.refreshes, rejection{accessToken, now})
	}
}

// Accepted notes that t took the new token: the refresh was right.
func (r *Rejections) Accepted(t Target, accessToken string) {
	r.refreshes = slices.DeleteFunc(r.refreshes, func(c rejection) bool { return c.accessToken == accessToken })
	r.endpoints = slices.DeleteFunc(r.endpoints, func(e refusal) bool { return e.target == t })
}

// Refused notes that t refused the new token as well. Its 401s stand for 5 s, as
// the new token may not be known everywhere yet, and then for the whole window:
// one endpoint must not use up the refreshes that another may need.
func (r *Rejections) Refused(t Target, now time.Time) {
	r.expire(now)
	i := slices.IndexFunc(r.endpoints, func(e refusal) bool { return e.target == t })
	if i < 0 {
		if len(r.endpoints) == maxEndpoints {
			r.endpoints = r.endpoints[1:]
		}
		r.endpoints = append(r.endpoints, refusal{target: t})
		i = len(r.endpoints) - 1
	}
	e := &r.endpoints[i]
	if now.Before(e.until) {
		return // one of many that overlap
	}
	pause := rejectionWindow
	if e.count++; e.count == 1 {
		pause = unverifiedFor
	}
	e.until = now.Add(pause)
}

// expire drops what is out of date.
func (r *Rejections) expire(now time.Time) {
	r.refreshes = slices.DeleteFunc(r.refreshes, func(c rejection) bool { return now.Sub(c.at) >= rejectionWindow })
	r.endpoints = slices.DeleteFunc(r.endpoints, func(e refusal) bool { return now.Sub(e.until) >= 2*rejectionWindow })
	if len(r.refreshes) == 0 && len(r.endpoints) == 0 {
		*r = Rejections{} // what it had room for
	}
}

// Over reports whether nothing is remembered any more.
func (r *Rejections) Over(now time.Time) bool {
	r.expire(now)
	return len(r.refreshes) == 0 && len(r.endpoints) == 0
}
