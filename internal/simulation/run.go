package simulation

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/walletauth/walletauth"
)

// newWorld is the world of a seed, before anything has happened in it.
func newWorld(seed uint64, seams Seams, change func(*world)) *world {
	w := &world{seed: seed, seams: seams, cond: drawConditions(seed), born: time.Now(), history: make([]entry, 0, 1<<10)}
	if change != nil {
		change(w)
	}
	w.walletkit = &walletkit{world: w, access: make(map[string]pair), refresh: make(map[string]pair), ids: make(map[string]*login)}
	w.store = &sharedStore{world: w, records: make(map[*keyTruth]*record)}
	for i := range w.cond.keys {
		key := &keyTruth{name: fmt.Sprintf("key-%d", i), logging: make(chan struct{}, 1)}
		w.keys = append(w.keys, key)
		w.store.records[key] = &record{versions: []version{{at: w.born}}}
	}
	return w
}

// run lives through w: troubled times, a calm in which everything must come
// right again, and the end of all processes.
func (w *world) run() {
	d := diceFor(w.seed, 2)
	for i := range w.cond.processes {
		p := &process{world: w, id: i, skew: w.drawSkew(d)}
		w.processes = append(w.processes, p)
		p.start()
	}
	for _, key := range w.keys {
		w.giveLogin(key, d)
	}
	w.trouble(d)
	w.becalm()
	w.recover()
	w.badDay()
	w.end()
	w.busy.Wait()
}

// drawSkew: half of the machines have a right clock.
func (w *world) drawSkew(d *dice) time.Duration {
	return pick(d, 0, 0, 0, time.Duration(d.below(120)-60)*time.Second, time.Duration(d.below(15)-7)*time.Hour, 31*24*time.Hour)
}

// giveLogin begins a world: each key has a session.
func (w *world) giveLogin(key *keyTruth, d *dice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.walletkit.login(key, key.name+"-user-"+pick(d, "a", "b"))
	r := w.store.records[key]
	p := pair{l, 0}
	r.versions = append(r.versions, version{time.Now(), w.walletkit.session(p), 0})
	r.order, p.grant().stored, p.grant().arrived = p.order(), true, time.Now()
	key.acked = l
}

// trouble is the part of a world in which things happen.
func (w *world) trouble(d *dice) {
	times := make([]time.Duration, w.cond.actions)
	for i := range times {
		times[i] = d.between(0, w.cond.horizon)
	}
	slices.Sort(times)
	for i, at := range times {
		time.Sleep(w.until(at))
		w.act(diceFor(w.seed, 3, uint64(i)), uint64(i))
	}
	time.Sleep(w.until(w.cond.horizon))
}

func (w *world) until(at time.Duration) time.Duration { return time.Until(w.born.Add(at)) }

// act does one thing, or starts it.
func (w *world) act(d *dice, n uint64) {
	p, key := w.processes[d.below(len(w.processes))], w.keys[d.below(len(w.keys))]
	if comesBack := d.chance(0.5); comesBack && p.up() == nil {
		p.start()
	}
	switch {
	case d.chance(w.cond.snatch):
		w.snatch(key)
	case d.chance(w.cond.jump):
		w.jump(p, d)
	case d.chance(w.cond.outage):
		w.outage(p, d)
	case d.chance(w.cond.down):
		w.mu.Lock()
		w.down = outage{time.Now().Add(d.between(time.Second, 40*time.Second)), outageKind(d.below(3))}
		w.note("server", "refreshes nothing", "until "+w.down.until.Sub(w.born).String(), nil)
		w.mu.Unlock()
	}
	switch x := d.below(100); {
	case x < 6:
		w.busy.Go(func() { w.logIn(p, key, d, n) })
	case x < 10:
		w.busy.Go(func() { w.logOut(p, key, d, n) })
	case x < 18:
		w.revoke(key)
	case x < 20:
		w.endSession(key)
	case x < 22:
		w.busy.Go(func() { w.renew(p, key, d, n) })
	case x < 24:
		w.busy.Go(func() { w.status(p, key, n) })
	case x < 27:
		if inc := p.up(); inc != nil {
			w.busy.Go(func() { inc.shutDown() })
		}
	default:
		w.burst(key, d, n)
	}
}

func (p *process) up() *incarnation {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	return p.now
}

// burst is some requests at about the same time, to any processes.
func (w *world) burst(key *keyTruth, d *dice, n uint64) {
	spread := pick(d, time.Millisecond, 50*time.Millisecond, time.Second, 5*time.Second)
	for i := range 1 + d.below(5) {
		p := w.processes[d.below(len(w.processes))]
		after, id := d.between(0, spread), n<<8|uint64(i)
		var patience time.Duration
		if d.chance(w.cond.impatient) {
			patience = d.between(time.Millisecond, pick(d, 100*time.Millisecond, 10*time.Second))
		}
		line := "GET /wallets"
		if d.chance(w.cond.refusing) {
			line = "GET " + refusing
		}
		w.busy.Go(func() {
			time.Sleep(after)
			if inc := p.up(); inc != nil {
				status, _ := inc.request(key, id, line, requests, patience, "")
				if d := diceFor(w.seed, 4, id); status != 200 && d.chance(0.3) && w.isOver(key) {
					time.Sleep(d.between(0, time.Second)) // those who waited for one refresh are answered at one instant
					w.logIn(p, key, d, id|1<<24)
				}
			}
		})
	}
}

// isOver reports whether the user of key has to log in.
func (w *world) isOver(key *keyTruth) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.store.records[key].current()
	return s == nil || w.walletkit.refresh[s.RefreshToken].ended != ""
}

// request sends one, and checks its end.
func (inc *incarnation) request(key *keyTruth, id uint64, line string, kind actorKind, patience time.Duration, user string) (status int, a *actor) {
	w := inc.world
	a = &actor{id: id, at: inc, key: key, kind: kind, start: time.Now(), refusing: strings.HasSuffix(line, refusing)}
	ctx, cancel := inc.ctx, context.CancelFunc(func() {})
	if patience > 0 {
		ctx, cancel = context.WithTimeout(ctx, patience)
	}
	defer cancel()
	method, path, _ := strings.Cut(line, " ")
	req, err := http.NewRequestWithContext(a.context(ctx), method, "https://walletkit.test"+path, nil)
	if err != nil {
		panic(err)
	}
	if user != "" {
		req.Header.Set("Sim-User", user)
	}
	began := time.Now()
	w.mu.Lock()
	w.counts.requests++
	w.note(a.String(), "requests", line+" of "+key.name, nil)
	w.mu.Unlock()
	resp, err := w.twist.clientOf(inc).RoundTrip(req)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		status = resp.StatusCode
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered(a, began, patience, status, err)
	return status, a
}

// answered checks how and when a request was answered. w.mu is held.
func (w *world) answered(a *actor, began time.Time, patience time.Duration, status int, err error) {
	took := time.Since(began)
	w.note(a.String(), "is answered", fmt.Sprint(status), err)
	if err != nil || status != 200 {
		w.counts.failed++
	}
	if a.at.dead || a.at.stood(began) {
		return // what a process that stands still promises is for later
	}
	w.counts.longest = max(w.counts.longest, took)
	if limit := w.patience(); took > limit {
		w.violated(a.String(), "an answer took %v, more than %v", took, limit)
	}
	if patience > 0 && took > patience+time.Millisecond {
		w.violated(a.String(), "an answer came %v after the caller's context had ended", took-patience)
	}
	w.checkEnd(a, began, err)
	w.checkKnown(a, status, err)
}

// stood reports whether inc has been paused since then, or so shortly before that
// what it had learned before the pause may still be on its way to a caller.
func (inc *incarnation) stood(then time.Time) bool {
	return inc.pausedUntil.Add(3 * time.Second).After(then)
}

// patience is how long a caller waits at most: twice for a flight, which waits
// for exclusion, refreshes, looks again and saves; and for two answers.
func (w *world) patience() time.Duration {
	calls := 12 * 2500 * time.Millisecond // of the store's, each slow and in vain
	return 2*(3*w.cond.timeout+calls) + 2*time.Second
}

// snatch makes the store lose a lease, as a failover does.
func (w *world) snatch(key *keyTruth) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.store.records[key]
	if !r.leased() {
		return
	}
	w.counts.snatches++
	r.holder.robbed = true
	r.holder = nil
	w.note("store", "forgets the lease of", key.name, nil)
}

func (w *world) jump(p *process, d *dice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.jumps++
	p.skew = w.drawSkew(d)
	p.set = time.Now()
	w.note(fmt.Sprintf("p%d", p.id), "clock is set", p.skew.String(), nil)
}

// outage cuts a process, or all of them, off from the store.
func (w *world) outage(p *process, d *dice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	until, what, all := time.Now().Add(d.between(time.Second, 2*w.cond.lease)), d.below(3), d.chance(0.5)
	for _, q := range w.processes {
		if q.now == nil || q != p && !all {
			continue
		}
		if what != 0 {
			q.now.handle.loadsDown = until
		}
		if what != 1 {
			q.now.handle.callsDown = until
		}
		w.note(q.now.name, "is cut off from the store", fmt.Sprint([]string{"calls", "loads", "all"}[what], " until ", until.Sub(w.born)), nil)
	}
}

// revoke ends the access token of key's session; endSession the session.
func (w *world) revoke(key *keyTruth) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.walletkit.logins {
		if l.key == key && l.ended == "" {
			l.grants[l.newest()].revoked = true
			w.note("server", "revokes the token of", pair{l, l.newest()}.String(), nil)
		}
	}
}

func (w *world) endSession(key *keyTruth) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.walletkit.logins {
		if l.key == key && l.ended == "" && l.user != "somebody else" {
			w.counts.revoked++
			w.walletkit.end(l, "revoked")
		}
	}
}

// logIn logs a user in, who may be another than before, in the way that the
// world's programs do.
func (w *world) logIn(p *process, key *keyTruth, d *dice, n uint64) {
	key.logging <- struct{}{}
	defer func() { <-key.logging }()
	inc := p.up()
	if inc == nil {
		return
	}
	user := key.name + "-user-" + pick(d, "a", "b")
	if w.cond.capture {
		w.logInByRequest(inc, key, user, n)
		return
	}
	w.mu.Lock()
	l := w.walletkit.login(key, user)
	s := w.walletkit.session(pair{l, 0})
	w.note(inc.name, "logs in", pair{l, 0}.String()+" as "+user, nil)
	key.mayBe(l)
	w.mu.Unlock()
	w.manage(inc, key, n, l, func(ctx context.Context) error { return walletauth.Save(ctx, inc.handle, key.name, s) })
}

// logInByRequest logs in by a request that the Transport captures.
func (w *world) logInByRequest(inc *incarnation, key *keyTruth, user string, n uint64) {
	w.mu.Lock()
	acked, possible := key.surely()
	w.mu.Unlock()
	status, a := inc.request(key, n<<8|0xff, "POST /users/login-anonymously", logsIn, 0, user)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case a.as == nil: // it never got there
	case status != 200 || inc.dead:
		key.mayBe(a.as)
	default:
		key.acked, key.possible, key.pending = a.as, nil, nil
		inc.knowGone(key, a.as)
		if !a.as.wasStored() {
			a.as.waited = true
			key.pending = &pendingLogin{inc, a.as, acked, possible}
		}
	}
}

// surely returns what is stored as far as that does not depend on a process that
// has yet to store what it acknowledged. w.mu is held.
func (k *keyTruth) surely() (acked *login, possible map[*login]bool) {
	if k.pending == nil {
		return k.acked, k.possible
	}
	possible = map[*login]bool{k.pending.login: true}
	maps.Copy(possible, k.pending.possible)
	maps.Copy(possible, k.possible)
	return k.pending.acked, possible
}

// mayBe adds to what may be stored. w.mu is held.
func (k *keyTruth) mayBe(l *login) {
	possible := map[*login]bool{l: true}
	for other := range k.possible {
		possible[other] = true
	}
	k.possible = possible
}

// manage stores a login, or a logout if l is nil, and tries again a few times.
func (w *world) manage(inc *incarnation, key *keyTruth, n uint64, l *login, do func(context.Context) error) bool {
	w.mu.Lock()
	w.serial++
	serial := w.serial
	w.mu.Unlock()
	for i := range 4 {
		a := &actor{id: n<<8 | 0xe0 | uint64(i), at: inc, key: key, kind: manages, serial: serial}
		ctx, cancel := context.WithTimeout(a.context(inc.ctx), w.cond.lease+10*time.Second)
		err := do(ctx)
		cancel()
		w.mu.Lock()
		w.note(a.String(), "has saved or deleted", key.name, err)
		if l != nil && l.wasStored() {
			err = nil // a program looks before it saves a login again that may have been refreshed by now
		}
		if err == nil {
			key.acked, key.possible, key.pending = l, nil, nil
			w.mu.Unlock()
			return true
		}
		w.mu.Unlock()
		if inc.wait(a, nil, time.Second, 2*time.Second) != nil {
			return false
		}
	}
	return false
}

// logOut logs the user out.
func (w *world) logOut(p *process, key *keyTruth, d *dice, n uint64) {
	key.logging <- struct{}{}
	defer func() { <-key.logging }()
	inc := p.up()
	if inc == nil {
		return
	}
	w.mu.Lock()
	key.mayBe(nil)
	w.mu.Unlock()
	if d.chance(0.5) {
		w.leave(inc, key, n)
		return
	}
	status, a := inc.request(key, n<<8|0xfe, "POST /users/logout", logsOut, 0, "")
	if w.cond.capture {
		w.mu.Lock()
		if inc.left[key] = inc.left[key] || status == 200; status == 200 {
			inc.knowsGone(a.as)
		}
		w.mu.Unlock()
		return
	}
	w.manage(inc, key, n, nil, func(ctx context.Context) error { return walletauth.Delete(ctx, inc.handle, key.name) })
}

// becalm ends all faults and starts what is down.
func (w *world) becalm() {
	w.mu.Lock()
	w.calm = true
	w.note("world", "is calm", "", nil)
	w.mu.Unlock()
	for _, p := range w.processes {
		if p.up() == nil {
			p.start()
		}
	}
	time.Sleep(3*w.cond.lease + 4*w.cond.timeout + 10*time.Second) // pauses end, leases lapse, operations finish
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range w.keys {
		w.checkStored(key)
	}
}

// checkStored demands that the store holds what was acknowledged last. w.mu is
// held.
func (w *world) checkStored(key *keyTruth) {
	var stored *login
	if s := w.store.records[key].current(); s != nil {
		stored = w.walletkit.refresh[s.RefreshToken].login
	}
	if late := stored != nil && stored.waited && w.wasEmpty(key, stored.born); stored != key.acked && !key.possible[stored] && !late {
		w.violated("store", "the last login or logout of %s that was acknowledged is not what is stored: %s, want %s", key.name, name(stored), name(key.acked))
	}
}

func name(l *login) string {
	if l == nil {
		return "none"
	}
	return fmt.Sprintf("login %d", l.serial)
}

// recover demands that everything works again: a user whose session is over
// logs in, and after a while all requests succeed.
func (w *world) recover() {
	var lastFailure time.Duration
	start := time.Now()
	// A session whose newest token was lost dies only when it is refreshed, up
	// to a lifetime later. A token that was refused for no reason is trusted
	// again after five minutes at most.
	length := 2*w.cond.ttl + 90*time.Second
	if w.cond.false401 > 0 || w.cond.refusing > 0 || w.renewals > 0 {
		length += 5 * time.Minute
	}
	const rounds = 6
	for round := range uint64(rounds) {
		for i, key := range w.keys {
			for j, p := range w.processes {
				inc := p.up()
				id := 1<<40 | round<<16 | uint64(i)<<8 | uint64(j)
				status, _ := inc.request(key, id, "GET /wallets", requests, 0, "")
				if status == 200 {
					continue
				}
				lastFailure = time.Since(start)
				w.logInAgain(inc, key, id)
				if round >= rounds-2 {
					w.mu.Lock()
					w.violated(inc.name, "%v after the last fault a request of %s still fails with status %d", lastFailure, key.name, status)
					w.mu.Unlock()
				}
			}
		}
		time.Sleep(length/rounds + time.Duration(round)*time.Millisecond)
	}
	w.counts.recovery = lastFailure
}

// logInAgain logs a user in whose session has ended; one that lives must work
// without.
func (w *world) logInAgain(inc *incarnation, key *keyTruth, id uint64) {
	w.mu.Lock()
	current := w.store.records[key].current()
	if current != nil {
		if p, ok := w.walletkit.refresh[current.RefreshToken]; ok && p.ended == "" && !p.bound {
			w.mu.Unlock()
			return
		}
	}
	l := w.walletkit.login(key, key.name+"-user-a")
	s := w.walletkit.session(pair{l, 0})
	w.note(inc.name, "logs in", pair{l, 0}.String(), nil)
	w.mu.Unlock()
	a := &actor{id: id | 1<<41, at: inc, key: key, kind: manages}
	if err := walletauth.Save(a.context(inc.ctx), inc.handle, key.name, s); err != nil {
		w.mu.Lock()
		w.violated(a.String(), "a login could not be saved: %v", err)
		w.mu.Unlock()
	}
}

// end shuts all processes down. Nothing may be left of them, which the bubble
// checks as far as goroutines go.
func (w *world) end() {
	for _, p := range w.processes {
		inc := p.up()
		if err := inc.transport.Shutdown(inc.shutter().context(context.Background())); err != nil {
			w.mu.Lock()
			w.violated(inc.name, "Shutdown in calm times: %v", err)
			w.mu.Unlock()
		}
		if calls, unsaved := w.seams.Remembers(inc.transport); calls+unsaved > 0 {
			w.mu.Lock()
			w.violated(inc.name, "in the end it remembers %d refreshes and %d unsaved sessions", calls, unsaved)
			w.mu.Unlock()
		}
		if err := inc.transport.Shutdown(inc.shutter().context(context.Background())); err != nil {
			w.mu.Lock()
			w.violated(inc.name, "the second Shutdown: %v", err)
			w.mu.Unlock()
		}
		w.mu.Lock()
		w.checkRejections(inc)
		inc.dead = true
		w.mu.Unlock()
		inc.kill()
	}
}
