package simulation

import (
	"context"
	"errors"
	"time"

	"github.com/walletauth/walletauth"
)

// What this file checks is what a process has to make of what it knows: that a
// session is over or gone, when its token was issued, that the store is down.

// checkSent demands that the session which a request goes out with is none that
// its process knew to be over or gone when the request began, and the user's
// under whom it began. w.mu is held.
func (w *world) checkSent(a *actor, p pair) {
	inc := a.at
	if at, ok := inc.gone[p.login]; ok && at.Before(a.start) {
		w.violated(a.String(), "a request went out with %s, which its process knew to be gone for %v", p, a.start.Sub(at))
	}
	if at, ok := inc.over[p]; ok && a.kind != asks && at.Before(a.start) {
		w.violated(a.String(), "a request went out with %s, which a caller was told to be over %v before", p, a.start.Sub(at))
	}
	if began := a.began; a.sent == 1 && began != nil && began.user != p.user && !w.cond.capture && a.kind == requests {
		w.violated(a.String(), "a request that began under %s went out first as %s", began.user, p.user)
	}
}

// checkKnown demands that an answer makes use of what the process knows. w.mu is
// held.
func (w *world) checkKnown(a *actor, status int, err error) {
	inc := a.at
	switch at, known := inc.called[a.last]; {
	case errors.Is(err, walletauth.ErrSessionExpired) && a.sent > 0:
		if _, ok := inc.over[a.last]; !ok {
			inc.over[a.last] = time.Now()
		}
	case status == 401 && a.sent > 0 && known && at.Before(a.start) && a.last.login == a.key.newest(w):
		w.violated(a.String(), "a 401 came back though %s was called over %v before the request", a.last, a.start.Sub(at))
	case status == 200 && a.sent > 0:
		inc.used[a.key] = use{a.last, time.Now()}
	}
	w.checkOutage(a, err)
	// A request that was sent and refused may have waited for a second refresh.
	if f := inc.failing[a.key]; f.at.After(a.start) && !f.mixed && a.sent == 0 && !w.cond.usesStore && time.Since(f.at) > 8*time.Second {
		w.violated(a.String(), "an answer came %v after the first failure of the refresh", time.Since(f.at))
	}
}

// newest is the login of k that came last. w.mu is held.
func (k *keyTruth) newest(w *world) (last *login) {
	for _, l := range w.walletkit.logins {
		if l.key == k && l.user != "somebody else" {
			last = l
		}
	}
	return last
}

// use is what a process last had a request answered with.
type use struct {
	pair
	at time.Time
}

// checkOutage demands that no request fails because the store cannot be read
// while its process has a session that is valid. w.mu is held.
func (w *world) checkOutage(a *actor, err error) {
	var failed *walletauth.StoreError
	if !errors.As(err, &failed) || failed.Op != "load" {
		return
	}
	inc := a.at
	u, ok := inc.used[a.key]
	if !ok || inc.process.skew != 0 || !inc.process.set.IsZero() || w.cond.noDate || w.cond.dateAhead != 0 {
		return
	}
	_, gone := inc.gone[u.login]
	replaced := gone || w.wasEmpty(a.key, u.at.Add(-w.cond.lag))
	for _, l := range w.walletkit.logins {
		replaced = replaced || l.key == a.key && l.serial > u.serial || l == u.login && l.ended != ""
	}
	if left := time.Until(u.grant().ends); !replaced && left > 5*time.Second {
		w.violated(a.String(), "a request failed since the store is down, though %s was used %v before and lives for %v: %v", u.pair, time.Since(u.at), left, err)
	}
}

// checkReply demands that a refresh was reported before it had an answer, and
// that its token's age did not call for it too early. w.mu is held.
func (w *world) checkReply(t *trip, p pair) {
	a := t.a.on(t.a.key)
	if a.refreshes <= 0 {
		w.violated(a.String(), "a refresh was answered before the event that it began")
		return
	}
	g, set := p.grant(), t.inc.process.set
	age, lifetime := t.began.Sub(g.received), w.cond.ttl-g.received.Sub(g.issued)
	if w.cond.noDate || w.cond.dateAhead != 0 { // a clock that is ahead has tokens look shorter
		lifetime -= max(t.inc.process.skew, 0)
	}
	if t.inc.process.skew != 0 { // a slow reply tells the time only to within its journey
		lifetime -= 10 * time.Second
	}
	if least := lifetime/2 - time.Second; set.Before(g.received) && g.holder == t.inc && a.reason != walletauth.Rejected && age < least {
		w.violated(a.String(), "%s was refreshed because it was %s, %v after it came", p, a.reason, age)
	}
}

// knowGone notes that inc knows by now that the logins of key before l are gone;
// all of them if l is nil. w.mu is held.
func (inc *incarnation) knowGone(key *keyTruth, l *login) {
	for _, other := range inc.world.walletkit.logins {
		if other.key == key && other.wasStored() && (l == nil || other.serial < l.serial) {
			inc.knowsGone(other)
		}
	}
}

func (inc *incarnation) knowsGone(l *login) {
	if _, ok := inc.gone[l]; !ok {
		inc.gone[l] = time.Now()
	}
}

// refusing is the path that answers every token with a 401.
const refusing = "/refusing"

// checkRejections demands that an endpoint which refuses every token has caused
// at most 3 refreshes of a key in 5 minutes, by a clock that was not set. w.mu is
// held.
func (w *world) checkRejections(inc *incarnation) {
	if !inc.process.set.IsZero() {
		return
	}
	for key, caused := range inc.rejections {
		var last []time.Time
		for _, g := range caused {
			if g.helped {
				continue
			}
			if last = append(last, g.received); len(last) > 3 && g.received.Sub(last[len(last)-4]) < 5*time.Minute-2*time.Second {
				w.violated(inc.name, "401s that no refresh helps caused 4 refreshes of %s in %v", key.name, g.received.Sub(last[len(last)-4]))
			}
		}
	}
}

// useStore is what a program may do when it is told that a session is over: use
// the store itself. It must not find it locked by whoever tells.
func (inc *incarnation) useStore(ctx context.Context, a *actor) {
	w := inc.world
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*w.cond.lease+20*time.Second)
	defer cancel()
	err := inc.handle.Update(ctx, a.key.name, func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) { return s, nil })
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(err, context.DeadlineExceeded) && !inc.dead && !inc.stood(began) {
		w.violated(a.String(), "OnEvent found the store locked for %v", time.Since(began))
	}
}
