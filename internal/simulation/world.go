package simulation

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/walletauth/walletauth"
)

// world is one simulated world: some processes, the store they share, and
// WalletKit. It lives in a synctest bubble, and its seed decides everything in
// it.
type world struct {
	seed  uint64
	seams Seams
	cond  conditions
	bugs  storeBugs // wrong on purpose
	twist twist     // likewise
	born  time.Time
	calm  bool   // no more faults
	down  outage // of the refresh endpoint
	busy  sync.WaitGroup

	// mu guards the state of the whole model. Nobody waits while holding it.
	mu         sync.Mutex
	history    []entry
	violations []string
	counts     counts
	serial     int // orders logins and deletions
	renewals   int

	walletkit *walletkit
	store     *sharedStore
	processes []*process
	keys      []*keyTruth
}

// keyTruth is what the world knows about a key that no process can know.
type keyTruth struct {
	name    string
	logging chan struct{} // full while a user logs in or out; a Mutex would stop the time of the bubble

	acked    *login          // the login that was acknowledged last, nil after a logout
	possible map[*login]bool // by operations since whose outcome is unknown; nil: none
	pending  *pendingLogin   // acknowledged by a process that could not store it so far
}

type pendingLogin struct {
	at       *incarnation
	login    *login
	acked    *login
	possible map[*login]bool
}

// counts are what a run adds to the report.
type counts struct {
	requests, failed, refreshes, commits          int
	logins, logouts                               int
	crashes, pauses, snatches, jumps              int
	lostReply, lostLate, lostCrash, lostExclusion int // sessions
	revoked, merged                               int
	longest                                       time.Duration
	served                                        time.Duration
	recovery                                      time.Duration
}

func (c *counts) add(o counts) {
	c.requests += o.requests
	c.failed += o.failed
	c.refreshes += o.refreshes
	c.commits += o.commits
	c.logins += o.logins
	c.logouts += o.logouts
	c.crashes += o.crashes
	c.pauses += o.pauses
	c.snatches += o.snatches
	c.jumps += o.jumps
	c.lostReply += o.lostReply
	c.lostCrash += o.lostCrash
	c.lostLate += o.lostLate
	c.lostExclusion += o.lostExclusion
	c.revoked += o.revoked
	c.merged += o.merged
	c.longest = max(c.longest, o.longest)
	c.recovery = max(c.recovery, o.recovery)
	c.served = max(c.served, o.served)
}

// entry is a line of the history.
type entry struct {
	at    time.Duration
	who   string
	what  string
	whose string
	err   error
}

func (e entry) String() string {
	line := fmt.Sprintf("%15.6fs  %-6s %s %s", e.at.Seconds(), e.who, e.what, e.whose)
	if e.err != nil {
		line += ": " + e.err.Error()
	}
	return line
}

// note adds to the history. w.mu is held.
func (w *world) note(who, what, whose string, err error) {
	w.history = append(w.history, entry{time.Since(w.born), who, what, whose, err})
}

// violated reports that a promise was broken. w.mu is held.
func (w *world) violated(who, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.violations = append(w.violations, fmt.Sprintf("at %.6fs, %s: %s", time.Since(w.born).Seconds(), who, text))
	w.note(who, "VIOLATION", text, nil)
}

// lines is the history in an order that does not depend on who came first
// within an instant.
func (w *world) lines() []string {
	slices.SortStableFunc(w.history, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.String(), b.String()))
	})
	lines := make([]string, len(w.history))
	for i, e := range w.history {
		lines[i] = e.String()
	}
	return lines
}

// conditions are the weather of a world, which its seed decides.
type conditions struct {
	processes, keys int
	horizon         time.Duration
	actions         int

	ttl, lease, timeout, before time.Duration
	capture                     bool // logins and logouts go through the Transport
	oneAccess                   bool // a refresh ends the old access token
	newID                       bool // a refresh changes the session's id
	keepAlive                   bool
	noDate                      bool          // something on the way strips the Date of answers
	dateAhead                   time.Duration // or sets it wrongly
	refreshTTL                  time.Duration
	usesStore                   bool          // OnEvent does
	badDay                      time.Duration // in the end

	lag         time.Duration // of the stores' local copies
	copiesServe bool          // Loads are answered by copies when the store is down
	saveAgain   bool          // the store tries to save again while it holds the lease

	// Probabilities, of each refresh:
	replyLost, refused, unreached, overloaded, foreign, slow float64
	// of each request:
	false401, failing, impatient, refusing float64
	longWait                               float64 // of each Retry-After: an hour
	// of each call to the store:
	loadFails, callFails, callForgets, renewFails float64
	// of each step of a process:
	crash, pause float64
	// of each action:
	snatch, jump, outage, down float64
}

// drawConditions makes worlds that differ: each kind of fault is in about a
// third of them, so that every combination comes up, and clear skies too.
func drawConditions(seed uint64) conditions {
	d := diceFor(seed, 1)
	some := func(p float64) float64 {
		if !d.chance(0.35) {
			return 0
		}
		return p * float64(1+d.below(3))
	}
	return conditions{
		processes: pick(d, 1, 2, 2, 2, 3, 3), keys: pick(d, 1, 1, 2, 3),
		horizon: d.between(time.Minute, 6*time.Minute), actions: 15 + d.below(25),
		ttl:     pick(d, 15*time.Second, time.Minute, time.Minute, 5*time.Minute),
		lease:   pick(d, 3*time.Second, 10*time.Second, 30*time.Second),
		timeout: pick(d, 5*time.Second, 10*time.Second, 30*time.Second),
		before:  pick(d, 0, 0, -1, 20*time.Second),
		capture: d.chance(0.5), oneAccess: d.chance(0.3), newID: d.chance(0.3), keepAlive: d.chance(0.3),
		usesStore: d.chance(0.3), badDay: pick(d, 0, 0, 10*time.Second, time.Minute),
		noDate: d.chance(0.2), dateAhead: pick(d, 0, 0, 0, 0, 10*time.Minute, -2*time.Hour), refreshTTL: pick(d, 30*24*time.Hour, 30*24*time.Hour, 6*time.Hour),
		lag:         pick(d, 0, 20*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond, 5*time.Second),
		copiesServe: d.chance(0.5), saveAgain: d.chance(0.5),
		replyLost: some(0.04), refused: some(0.1), unreached: some(0.1), overloaded: some(0.1), foreign: some(0.1), slow: some(0.1),
		refusing: some(0.1), longWait: some(0.1), false401: some(0.03), failing: some(0.03), impatient: some(0.1),
		loadFails: some(0.03), callFails: some(0.05), callForgets: some(0.03), renewFails: some(0.3),
		crash: some(0.002), pause: some(0.003),
		snatch: some(0.05), jump: some(0.05), outage: some(0.05), down: some(0.04),
	}
}

// actor is on whose behalf something happens: a request, a login, a process's
// KeepAlive. It travels in contexts, as a trace would.
type actor struct {
	id     uint64
	serial int // of a call of Delete
	at     *incarnation
	key    *keyTruth
	kind   actorKind

	// Guarded by the world's mu.
	rolls      [rollKinds]uint64
	start      time.Time
	began      *login // what its first Load brought
	loads      int
	loaded     map[*login]bool // what all brought, if asked for
	loadFailed bool
	reason     walletauth.Reason    // of the refresh that it began last
	returned   bool                 // from Logout
	refreshes  int                  // that it began and that have not ended, as far as events tell
	last       pair                 // it was sent with
	refusing   bool                 // by a path that always answers 401
	sent       int                  // requests that went out, the replay included
	as         *login               // on behalf of whose user
	parts      map[*keyTruth]*actor // of one that acts for all keys
}

type actorKind int

const (
	requests actorKind = iota
	logsIn             // by a request that is captured
	logsOut            // likewise
	manages            // calls Save or Delete
	keepsAlive
	renews
	asks
	shutsDown // for all keys
)

type rollKind int

const (
	rollLoad rollKind = iota
	rollCall
	rollRenew
	rollRefresh
	rollRequest
	rollRetry
	rollStep
	rollWait
	rollKinds
)

type actorKey struct{}

func (a *actor) context(ctx context.Context) context.Context {
	if a.key == nil {
		return context.WithValue(ctx, actorKey{}, a)
	}
	return walletauth.WithKey(context.WithValue(ctx, actorKey{}, a), a.key.name)
}

func actorOf(ctx context.Context) *actor {
	a, _ := ctx.Value(actorKey{}).(*actor)
	if a == nil {
		panic("a context lost its values")
	}
	return a
}

// on is the part of a that acts for key.
func (a *actor) on(key *keyTruth) *actor {
	if a.key != nil {
		return a
	}
	a.at.world.mu.Lock()
	defer a.at.world.mu.Unlock()
	part := a.parts[key]
	if part == nil {
		part = &actor{id: mix(a.id + uint64(key.name[len(key.name)-1])), at: a.at, key: key, kind: a.kind}
		a.parts[key] = part
	}
	return part
}

// roll returns new dice for something that a does.
func (a *actor) roll(kind rollKind) *dice {
	w := a.at.world
	w.mu.Lock()
	defer w.mu.Unlock()
	return a.rollLocked(kind)
}

func (a *actor) rollLocked(kind rollKind) *dice {
	a.rolls[kind]++
	return diceFor(a.at.world.seed, a.id, uint64(kind), a.rolls[kind])
}

func (a *actor) String() string { return a.at.name + "#" + strconv.FormatUint(a.id%1000, 10) }
