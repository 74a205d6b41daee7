package simulation

import (
	"errors"
	"strings"
	"time"

	"github.com/walletauth/walletauth"
)

// leave logs the user out by Transport.Logout.
func (w *world) leave(inc *incarnation, key *keyTruth, n uint64) {
	a := &actor{id: n<<8 | 0xfd, at: inc, key: key, kind: logsOut, start: time.Now(), loaded: make(map[*login]bool)}
	w.mu.Lock()
	inc.leaving[key] = a
	w.note(a.String(), "logs out", key.name, nil)
	w.mu.Unlock()
	began := time.Now()
	w.mu.Lock()
	for _, l := range w.walletkit.logins { // what this process has yet to store, it forgets
		l.loggedOut = l.loggedOut || l.key == key && l.waited && !l.wasStored()
	}
	w.mu.Unlock()
	err := inc.transport.Logout(a.context(inc.ctx))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(a.String(), "has logged out", key.name, err)
	a.returned = true
	w.counts.logouts++
	if inc.dead {
		return
	}
	if err != nil {
		w.checkText(a, err)
	}
	var store *walletauth.StoreError
	switch {
	case errors.Is(err, errShutDown(err)):
		return
	case w.storedSince(a):
		// Another process has stored a login that this one had not heard of. It
		// was not the one that the user left.
	case !errors.As(err, &store):
		key.acked, key.possible, key.pending = nil, nil, nil
	}
	first := !inc.left[key] // whether WalletKit knows was said then
	inc.left[key] = true
	for l, loaded := range a.loaded {
		inc.knowsGone(l)
		if err == nil && first && loaded && l == key.newest(w) && l.ended == "" && !a.loadFailed {
			w.violated(a.String(), "a logout was said to be done, and WalletKit honours login %d still", l.serial)
		}
	}
	if took := time.Since(began); took > 11*time.Second && !inc.stood(began) {
		w.violated(a.String(), "a logout took %v", took)
	}
}

// storedSince reports whether the store holds a login that a was not given. w.mu is
// held.
func (w *world) storedSince(a *actor) bool {
	s := w.store.records[a.key].current()
	if s == nil {
		return false
	}
	_, known := a.loaded[w.walletkit.refresh[s.RefreshToken].login]
	return !known
}

// errShutDown returns err if it says that the Transport was shut down, which has
// no name of its own.
func errShutDown(err error) error {
	if err != nil && strings.Contains(err.Error(), "shut down") {
		return err
	}
	return errors.New("none")
}

// renew meets a 401 outside of HTTP.
func (w *world) renew(p *process, key *keyTruth, d *dice, n uint64) {
	inc := p.up()
	if inc == nil {
		return
	}
	a := &actor{id: n<<8 | 0xfc, at: inc, key: key, kind: renews, start: time.Now()}
	s, err := inc.transport.Session(a.context(inc.ctx))
	w.mu.Lock()
	w.checkSession(a, s, err)
	if err == nil && d.chance(0.7) {
		p := w.walletkit.access[s.AccessToken]
		p.grant().revoked = true
		w.note("server", "revokes the token of", p.String(), nil)
	}
	w.mu.Unlock()
	if err != nil {
		return
	}
	a = &actor{id: n<<8 | 0xfb, at: inc, key: key, kind: renews, start: time.Now()}
	w.mu.Lock()
	w.renewals++
	w.note(a.String(), "renews", key.name, nil)
	w.mu.Unlock()
	next, err := inc.transport.Renew(a.context(inc.ctx), s)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(a.String(), "has renewed", key.name, err)
	if w.checkSession(a, next, err); err == nil && (next.AccessToken == s.AccessToken || next.UserID != s.UserID) {
		w.violated(a.String(), "Renew answered %s with %s", w.walletkit.describe(s), w.walletkit.describe(next))
	}
}

// checkSession checks what Session and Renew return. w.mu is held.
func (w *world) checkSession(a *actor, s *walletauth.Session, err error) {
	if a.at.dead || a.at.stood(a.start) {
		return
	}
	if took, limit := time.Since(a.start), w.patience(); took > limit {
		w.violated(a.String(), "a session took %v, more than %v", took, limit)
	}
	if err != nil {
		w.checkEnd(a, a.start, err)
		w.checkKnown(a, 0, err)
		return
	}
	p, known := w.walletkit.access[s.AccessToken]
	switch {
	case !known || p.key != a.key || p.user == "somebody else":
		w.violated(a.String(), "was given %s for %s", w.walletkit.describe(s), a.key.name)
	default:
		w.checkSent(a, p)
	}
}

// status asks what is known of key's session.
func (w *world) status(p *process, key *keyTruth, n uint64) {
	inc := p.up()
	if inc == nil {
		return
	}
	a := &actor{id: n<<8 | 0xfa, at: inc, key: key, kind: asks, start: time.Now()}
	status, err := inc.transport.Status(a.context(inc.ctx))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(a.String(), "asks for the status of", key.name, err)
	if inc.dead || inc.stood(a.start) {
		return
	}
	if took := time.Since(a.start); took > time.Second {
		w.violated(a.String(), "a Status took %v", took)
	}
	if s := status.Session; s != nil {
		if w.checkSession(a, s, nil); status.Over != nil {
			w.checkOver(a, w.walletkit.access[s.AccessToken].login, status.Over)
		}
	}
	if status.Session == nil && err == nil {
		w.checkEnd(a, a.start, walletauth.ErrNoSession)
	}
}

// checkOver demands that a session which is called over has ended. w.mu is held.
func (w *world) checkOver(a *actor, l *login, err error) {
	if !errors.Is(err, walletauth.ErrSessionExpired) || l.ended == "" {
		w.violated(a.String(), "login %d, which lives, is said to be over: %v", l.serial, err)
	}
}

// badDay is an outage of the refresh endpoint in otherwise calm times, in which
// every process asks for every key once a second. Nobody may starve: each is
// served within a bound after it.
func (w *world) badDay() {
	d := diceFor(w.seed, 5)
	if w.cond.badDay == 0 {
		return
	}
	w.mu.Lock()
	until := time.Now().Add(w.cond.badDay)
	w.down = outage{until: until, kind: pick(d, outageAnswers, outageRefuses, outageAsksForPatience)}
	w.note("server", "refreshes nothing", "until "+until.Sub(w.born).String(), nil)
	w.mu.Unlock()
	for _, key := range w.keys {
		w.revoke(key)
	}
	done := make(chan struct{})
	asking := 0
	for i, key := range w.keys {
		for j, p := range w.processes {
			asking++
			go func() {
				w.askThrough(p.up(), key, until, 1<<42|uint64(i)<<24|uint64(j)<<20)
				done <- struct{}{}
			}()
		}
	}
	for range asking {
		<-done
	}
}

// askThrough asks once a second until an answer comes that began after the end.
func (w *world) askThrough(inc *incarnation, key *keyTruth, end time.Time, id uint64) {
	time.Sleep(time.Duration(mix(id)%1000) * time.Millisecond)
	bound := w.servedAfter()
	for n := uint64(0); ; n++ {
		began := time.Now()
		status, a := inc.request(key, id|n, "GET /wallets", requests, 0, "")
		over := time.Since(end)
		w.mu.Lock()
		if took := time.Since(began); took > 8*time.Second {
			w.violated(a.String(), "a request on a bad day took %v", took)
		}
		served := status == 200 && over > 0
		if over > bound && !served {
			w.violated(a.String(), "%v after an outage of the refresh endpoint %s is still not served", over, key.name)
		}
		if served {
			w.counts.served = max(w.counts.served, over)
		}
		w.mu.Unlock()
		if served || over > bound {
			return
		}
		time.Sleep(time.Second - time.Since(began)%time.Second)
	}
}

// servedAfter is when everybody has to be served after an outage: 5 s by the
// contract for one key, the time for the request itself, what the endpoint asked
// for with a fifth of jitter, and what other processes take to learn of it.
func (w *world) servedAfter() time.Duration {
	bound := 8*time.Second + w.cond.lag
	if w.down.kind != outageAnswers {
		bound += maxRetryAfter * 12 / 10
	}
	return bound
}

const maxRetryAfter = 8 * time.Second

// outage is one of the whole refresh endpoint.
type outage struct {
	until time.Time
	kind  outageKind
}

type outageKind int

const (
	outageAnswers outageKind = iota
	outageRefuses
	outageAsksForPatience // with Retry-After
)

func (o outage) fault() (fault, bool) {
	if !time.Now().Before(o.until) {
		return noFault, false
	}
	if o.kind == outageRefuses {
		return lostOnTheWay, true
	}
	return overloaded, true
}
