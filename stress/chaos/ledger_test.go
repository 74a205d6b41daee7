//go:build linux

package chaos_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/walletauth/walletauth"
)

// ledger is what the stand-in granted and refused, and what the workers made of
// it. Tokens are in it as marks. It knows two ways in which a session may end,
// and both take a process that was killed while it refreshed:
//
//   - Between commit and save. The worker has traded token A in for B and dies
//     before B is saved: nobody is left who knows B, so another worker sends A
//     again, at which the stand-in ends the session. The ledger sees A come
//     back, knows who had traded it in, that this process was killed, that its
//     journal says nothing of a save of B, and that the session was given no
//     token after B.
//   - On the way to the commit. The worker sends A and dies while the API has
//     not come to its request yet. Either the API then trades A in for B, which
//     nobody is there to take. Or another worker takes over first, trades A in,
//     and saves B; then A comes from the dead. The ledger knows that the sender
//     was dead by the time of the trade, so it has sent A before. The latter
//     takes an API that is slower than the takeover, so that with a lease it
//     hardly happens.
//
// There is a third way on a machine that is too busy: the worker lives, and for so
// long cannot reach the store, or does not run, that its lease ends before B is
// saved. The ledger sees that for two thirds of a lease, in which it is renewed
// twice, the worker has saved nothing of any key.
//
// An API that forgives a used token for a while makes up for the first two ways,
// unless the machine stands still meanwhile. The ledger notices that by a timer.
//
// Whatever else ends a session is a mistake of the library.
type ledger struct {
	began time.Time
	lease time.Duration // 0: locks last as long as the process
	grace time.Duration // in which the API forgives a used token, so that a kill loses nothing

	mu       sync.Mutex // guards what follows
	trades   map[string]*trade
	issued   map[string]*trade
	sessions map[string]*session
	reuses   []reuse
	killed   map[string]time.Duration
	saves    map[string][]time.Duration // by process, after its start
	stalls   []stall
	ending   bool // workers are to end by themselves
	requests int  // that got their answer
	failures map[string]int
	unsaved  int             // saves that failed
	over     map[string]bool // keys of which a request was told so
	strange  []string        // what must not be and is not about a session that was lost
	history  map[string][]string
}

// trade is a refresh that was granted.
type trade struct {
	session       *session
	process       string
	used, brought string
	at            time.Duration
	saved         time.Duration // when, by whomever; 0: not yet
}

type session struct {
	key    string
	newest string // the token that it was given last
	over   bool
}

// reuse is a used token that was sent again.
type reuse struct {
	trade *trade // in which it was used
	by    string
	at    time.Duration
	last  bool // nothing had been granted to the session since
	story string
}

// stall is how late a timer was.
type stall struct{ at, late time.Duration }

// watch notes when the machine stands still, until ctx ends.
func (l *ledger) watch(ctx context.Context) {
	const tick = 50 * time.Millisecond
	for before := l.now(); pause(ctx, tick); before = l.now() {
		if late := l.now() - before - tick; late > tick {
			l.mu.Lock()
			l.stalls = append(l.stalls, stall{l.now(), late})
			l.mu.Unlock()
		}
	}
}

func newLedger(lease, grace time.Duration) *ledger {
	return &ledger{
		began: time.Now(), lease: lease, grace: grace,
		trades: make(map[string]*trade), issued: make(map[string]*trade), saves: make(map[string][]time.Duration),
		sessions: make(map[string]*session), killed: make(map[string]time.Duration),
		failures: make(map[string]int), over: make(map[string]bool), history: make(map[string][]string),
	}
}

func (l *ledger) now() time.Duration { return time.Since(l.began) }

// note adds to the history of a key. l.mu is held.
func (l *ledger) note(key, format string, args ...any) {
	const most = 40 // lines
	lines := append(l.history[key], fmt.Sprintf("%9.3f s  ", l.now().Seconds())+fmt.Sprintf(format, args...))
	l.history[key] = lines[max(0, len(lines)-most):]
}

func (l *ledger) login(s *walletauth.Session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[s.ID] = &session{key: s.UserID, newest: mark(s.RefreshToken)}
	l.note(s.UserID, "login, with %s", mark(s.RefreshToken))
}

// granted is a refresh that the stand-in has committed, or committed before and
// answered again within its grace. It reports which: the trade is of who was first.
func (l *ledger) granted(process, token string, next *walletauth.Session) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.trades[mark(token)]; t != nil {
		l.note(t.session.key, "%s trades %s in for %s again", process, t.used, t.brought)
		return false
	}
	t := &trade{session: l.sessions[next.ID], process: process, used: mark(token), brought: mark(next.RefreshToken), at: l.now()}
	t.session.newest = t.brought
	l.trades[t.used], l.issued[t.brought] = t, t
	l.note(t.session.key, "%s trades %s in for %s", process, t.used, t.brought)
	return true
}

// refused is a refresh that the stand-in refused. It returns the key that has
// lost its session by it, "" if none has.
func (l *ledger) refused(process, id, token string) (lost string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, t := l.sessions[id], l.trades[mark(token)]
	switch {
	case s == nil:
		l.strange = append(l.strange, process+" sent the id of no session")
	case t != nil:
		l.note(s.key, "%s sends %s, which has been used", process, t.used)
		l.reuses = append(l.reuses, reuse{t, process, l.now(), t.brought == s.newest, l.story(s.key)})
		if !s.over {
			lost, s.over = s.key, true
		}
	case !s.over:
		l.strange = append(l.strange, fmt.Sprintf("%s was refused %s of %s, which has not been used", process, mark(token), s.key))
	}
	return lost
}

// read takes in a line of a worker's journal.
func (l *ledger) read(process string, words []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch words[0] {
	case "ok":
		l.requests++
	case "failed":
		key, kind := words[1], words[2]
		l.requests++
		l.failures[kind]++
		if kind == sessionOver {
			l.over[key] = true
		}
	case "event":
		l.note(words[1], "%s: %s", process, words[2])
	case "got", "saved", "unsaved":
		l.note(words[1], "%s: %s %s", process, words[0], words[2])
		if words[0] == "unsaved" {
			l.unsaved++
		}
		if words[0] == "saved" {
			l.saved(process, words[2])
		}
	default:
		l.strange = append(l.strange, fmt.Sprintf("%s says %q", process, words))
	}
}

// started is a process that begins: nothing can be expected to be saved before.
func (l *ledger) started(process string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saves[process] = append(l.saves[process], l.now())
}

// saved is a save that the store has acknowledged. l.mu is held.
func (l *ledger) saved(process, token string) {
	l.saves[process] = append(l.saves[process], l.now())
	if t := l.issued[token]; t != nil && t.saved == 0 {
		t.saved = l.now()
	}
}

func (l *ledger) kill(process string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.killed[process]; !ok {
		l.killed[process] = l.now()
	}
}

// expectEnds says that workers may end by themselves from here on.
func (l *ledger) expectEnds() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ending = true
}

func (l *ledger) ended(process string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, killed := l.killed[process]; !killed && (err != nil || !l.ending) {
		l.strange = append(l.strange, fmt.Sprintf("%s ended by itself: %v", process, err))
	}
}

// verdict is what became of the sessions.
type verdict struct {
	tokens      int // that were sent twice or more often
	sent        int // how often they were sent, after the first time
	killers     int // processes that were killed with a refresh granted and not saved
	unsaved     int // such refreshes
	lost        int // sessions
	onTheWay    int // of these in the second way
	cutOff      int // and in the third
	stoodStill  int // and because the machine stood still
	unexplained []reuse
}

func (l *ledger) judge() (v verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	dead, again, lost := make(map[string]bool), make(map[string]bool), make(map[*session]reuse)
	for _, t := range l.trades {
		if l.diedUnsaved(t) {
			dead[t.process] = true
			v.unsaved++
		}
	}
	for _, r := range l.reuses {
		again[r.trade.used] = true
		first, known := lost[r.trade.session]
		switch {
		case !known:
			lost[r.trade.session] = r
		case first.trade != r.trade: // the others may send the same token, and no other
			v.unexplained = append(v.unexplained, r)
		}
	}
	for _, r := range lost {
		switch {
		case l.grace > 0 && l.stoodStill(r):
			v.stoodStill++
		case l.grace > 0: // then a kill is no excuse
			v.unexplained = append(v.unexplained, r)
		case l.wasOnTheWay(r):
			v.onTheWay++
		case r.last && l.diedUnsaved(r.trade):
		case r.last && l.wasCutOff(r):
			v.cutOff++
		default:
			v.unexplained = append(v.unexplained, r)
		}
	}
	v.tokens, v.sent, v.killers, v.lost = len(again), len(l.reuses), len(dead), len(lost)
	return v
}

func (l *ledger) diedUnsaved(t *trade) bool {
	_, killed := l.killed[t.process]
	return killed && t.saved == 0
}

// recovered reports whether all that was granted to processes that were killed
// was saved, by them or by others, who may have been killed before they said so. A
// session that was lost is judged elsewhere.
func (l *ledger) recovered() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.trades {
		if l.diedUnsaved(t) && l.trades[t.brought] == nil && !t.session.over {
			return false
		}
	}
	return true
}

// wasCutOff reports whether who was granted a refresh had not saved anything for so
// long, when somebody else sent the same token, that it may have lost its lease.
func (l *ledger) wasCutOff(r reuse) bool {
	if l.lease == 0 || r.trade.saved != 0 && r.trade.saved < r.at {
		return false
	}
	since := r.trade.at
	for _, at := range append(slices.Clone(l.saves[r.trade.process]), r.at) {
		if at > r.trade.at && min(at, r.at)-since >= l.lease*2/3 {
			return true
		}
		since = at
	}
	return false
}

// stoodStill reports whether the machine took a good part of the grace from who
// was to take over.
func (l *ledger) stoodStill(r reuse) bool {
	var late time.Duration
	for _, s := range l.stalls {
		if s.at >= r.trade.at && s.at-s.late <= r.at {
			late += s.late
		}
	}
	return late >= l.grace/6
}

// wasOnTheWay reports whether a refresh that was traded, or the one that came
// again, was with the API when its sender died.
func (l *ledger) wasOnTheWay(r reuse) bool {
	if r.last && l.diedUnsaved(r.trade) && l.killed[r.trade.process] < r.trade.at {
		return true
	}
	died, killed := l.killed[r.by]
	return killed && died < r.trade.at
}

// wrong lists what must not have happened, with the histories of the keys.
func (l *ledger) wrong(v verdict) (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all = append(all, l.strange...)
	for _, r := range v.unexplained {
		all = append(all, "a session of "+r.trade.session.key+" was lost, and not with a process that was killed:\n"+r.story)
	}
	lost := make(map[string]bool)
	for _, r := range l.reuses {
		lost[r.trade.session.key] = true
	}
	for key := range l.over {
		if !lost[key] {
			all = append(all, "a request of "+key+" was told that its session is over, which none is:\n"+l.story(key))
		}
	}
	if n := l.failures[noSession]; n > 0 {
		all = append(all, fmt.Sprintf("%d requests were told that there is no session", n))
	}
	return all
}

// story is the end of the history of a key, and who in it was killed. l.mu is
// held.
func (l *ledger) story(key string) string {
	text := strings.Join(l.history[key], "\n")
	for process, at := range l.killed {
		if strings.Contains(text, process) {
			text += fmt.Sprintf("\n%9.3f s  %s was killed", at.Seconds(), process)
		}
	}
	return text
}
