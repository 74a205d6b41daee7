package simulation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/walletauth/walletauth"
)

const project = "project"

// walletkit is a model of WalletKit at its strictest: a refresh token works
// once, and one that comes back ends the session. It is changed under the
// world's mu.
type walletkit struct {
	world   *world
	logins  []*login
	access  map[string]pair
	refresh map[string]pair
	ids     map[string]*login
}

// login is a session from its login to its end, through all its refreshes.
type login struct {
	serial    int
	key       *keyTruth
	user      string
	born      time.Time
	grants    []*grant // the pairs of tokens it was given, of which the last is current
	ended     string   // why
	waited    bool     // a Transport had to store it later
	loggedOut bool     // a Transport was told to forget it
	bound     bool     // it was asked to wait for an hour
}

func (l *login) newest() int { return len(l.grants) - 1 }

func (l *login) wasStored() bool { return l.grants[0].stored }

// grant is a pair of tokens, and what became of it.
type grant struct {
	issued, ends time.Time    // of the access token
	revoked      bool         // the access token
	by           *turn        // in which it was issued, nil at the login
	holder       *incarnation // that got the reply, nil if nobody did
	trip         *trip        // in which it was issued
	received     time.Time    // by the holder
	helped       bool         // a request that had got a 401 was repeated with it, and not in vain
	missed       bool         // a fault kept a save from the store
	arrived      time.Time    // the first save that reached the store
	stored       bool         // has been
}

// pair is a grant of a login by its number.
type pair struct {
	*login
	n int
}

func (p pair) grant() *grant { return p.grants[p.n] }

func (p pair) order() order { return order{p.serial, p.n} }

func (p pair) String() string { return fmt.Sprintf("login %d refresh %d", p.serial, p.n) }

func (k *walletkit) describe(s *walletauth.Session) string {
	if s == nil {
		return "no session"
	}
	p, ok := k.refresh[s.RefreshToken]
	if !ok {
		return "an unknown session"
	}
	return p.String()
}

func (k *walletkit) loginOf(id string) *login { return k.ids[id] }

// login begins a session. w.mu is held.
func (k *walletkit) login(key *keyTruth, user string) *login {
	w := k.world
	w.serial++
	w.counts.logins++
	l := &login{serial: w.serial, key: key, user: user, born: time.Now()}
	k.logins = append(k.logins, l)
	k.issue(l, nil)
	return l
}

// issue gives l its next pair of tokens.
func (k *walletkit) issue(l *login, by *turn) pair {
	cond := k.world.cond
	if n := len(l.grants); n > 0 && cond.oneAccess {
		l.grants[n-1].revoked = true
	}
	l.grants = append(l.grants, &grant{issued: time.Now(), ends: time.Now().Add(cond.ttl), by: by})
	p := pair{l, l.newest()}
	s := k.session(p)
	k.access[s.AccessToken], k.refresh[s.RefreshToken], k.ids[s.ID] = p, p, l
	return p
}

// session is p as the API writes it.
func (k *walletkit) session(p pair) *walletauth.Session {
	name := fmt.Sprintf("%d.%d", p.serial, p.n)
	id := strconv.Itoa(p.serial)
	if k.world.cond.newID {
		id = name
	}
	return &walletauth.Session{
		ID: "session-" + id, CreatedAt: p.born.UTC(), ProjectID: project, UserID: p.user,
		AccessToken: "access-token-" + name, AccessTokenExpiresAt: p.grant().ends.UTC(),
		RefreshToken: "refresh-token-" + name, RefreshTokenExpiresAt: time.Now().Add(k.world.cond.refreshTTL).UTC(),
	}
}

// end ends l. w.mu is held.
func (k *walletkit) end(l *login, why string) {
	if l.ended == "" {
		l.ended = why
		k.world.note("server", "ends", fmt.Sprintf("login %d of %s: %s", l.serial, l.key.name, why), nil)
	}
}

// arrived and missed note what became of a save of s. w.mu is held.
func (k *walletkit) arrived(s *walletauth.Session) {
	if s == nil {
		return
	}
	if p, ok := k.refresh[s.RefreshToken]; ok && p.grant().arrived.IsZero() {
		p.grant().arrived = time.Now()
	}
}

func (k *walletkit) missed(s *walletauth.Session) {
	if s == nil {
		return
	}
	if p, ok := k.refresh[s.RefreshToken]; ok {
		p.grant().missed = true
	}
}

// network is the way from a process to WalletKit.
type network struct{ inc *incarnation }

// trip is a request under way.
type trip struct {
	*network
	a     *actor
	req   *http.Request
	body  []byte
	t     *turn // for a refresh
	gone  bool  // the sender has given it up
	began time.Time
	d     *dice

	there, back time.Duration
	fault       fault
	asked       pair // to be refreshed
}

type fault int

const (
	noFault fault = iota
	lostOnTheWay
	lostOnTheWayBack
	truncated
	replaced // by an answer that is not WalletKit's, which never saw the request
	overloaded
)

func (n *network) RoundTrip(req *http.Request) (*http.Response, error) {
	a := actorOf(req.Context())
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		_ = req.Body.Close()
	}
	began := time.Now()
	isRefresh := strings.HasSuffix(req.URL.Path, "/refresh-token")
	where := ""
	if isRefresh {
		where = "before sending a refresh"
	}
	if err := n.inc.step(a, req.Context(), where); err != nil {
		return nil, err
	}
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	trip := &trip{network: n, a: a, req: req, body: body, began: began}
	if isRefresh {
		trip.d = a.roll(rollRefresh)
		return trip.refresh()
	}
	trip.d = a.roll(rollRequest)
	trip.plan(time.Millisecond, 200*time.Millisecond)
	return trip.travel(trip.serve)
}

// plan draws how long the ways take.
func (t *trip) plan(lo, hi time.Duration) {
	t.there, t.back = t.d.between(lo, hi), t.d.between(lo, hi)
}

// travel sends the request and waits for the answer. What has been sent gets
// there, whatever becomes of the sender.
func (t *trip) travel(serve func() *http.Response) (*http.Response, error) {
	type answer struct {
		resp *http.Response
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		time.Sleep(t.there)
		if t.fault == lostOnTheWay {
			answered <- answer{err: errReset}
			return
		}
		resp := serve()
		time.Sleep(t.back)
		if t.fault == lostOnTheWayBack {
			answered <- answer{err: errReset}
			return
		}
		answered <- answer{resp: resp}
	}()
	select {
	case got := <-answered:
		where := ""
		if t.t != nil {
			where = "after the reply to a refresh"
		}
		if err := t.inc.step(t.a, t.req.Context(), where); err != nil {
			return nil, err
		}
		return got.resp, got.err
	case <-t.req.Context().Done():
		return nil, t.inc.ended(t.req.Context())
	case <-t.inc.ctx.Done():
		return nil, errCrashed
	}
}

// refresh sends a refresh.
func (t *trip) refresh() (*http.Response, error) {
	w := t.inc.world
	var asked struct {
		SessionID    string `json:"session_id"`
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.Unmarshal(t.body, &asked); err != nil {
		panic(err)
	}
	t.plan(2*time.Millisecond, 300*time.Millisecond)
	w.mu.Lock()
	if t.inc.dead {
		w.mu.Unlock()
		return nil, errCrashed
	}
	t.t = t.inc.turns[t.a.key]
	t.asked = w.walletkit.refresh[asked.RefreshToken]
	t.drawRefreshFault()
	w.checkSend(t, asked.RefreshToken)
	t.inc.sending[t.a.key]++
	w.mu.Unlock()
	var issued *grant
	resp, err := t.travel(func() *http.Response {
		resp, g := t.serveRefresh(asked.SessionID, asked.RefreshToken)
		issued = g
		return resp
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	t.inc.sending[t.a.key]--
	if err != nil {
		t.gone = true
		if early := w.cond.timeout - time.Since(t.inc.attempts[t.a.key]); t.req.Context().Err() != nil && early > time.Millisecond && !t.inc.dead {
			w.violated(t.a.String(), "gave a refresh up that was under way, %v before its time", early)
		}
		w.note(t.a.String(), "gets no reply", "", err)
		return nil, err
	}
	if resp.Header.Get("Sim-Over") != "" {
		t.inc.refused[asked.RefreshToken] = true
		t.inc.lastRefused[t.a.key] = w.walletkit.refresh[asked.RefreshToken]
	}
	w.note(t.a.String(), "gets the reply", resp.Status, nil)
	if p, ok := w.walletkit.refresh[asked.RefreshToken]; ok {
		w.checkReply(t, p)
	}
	switch {
	case issued == nil:
	case t.fault == truncated:
		t.gone = true
	default:
		issued.holder = t.inc
		issued.received = time.Now()
		if t.a.reason == walletauth.Rejected && (t.a.refusing || t.a.kind == renews) {
			t.inc.rejections[t.a.key] = append(t.inc.rejections[t.a.key], issued)
		}
	}
	return resp, nil
}

func (t *trip) drawRefreshFault() {
	w := t.inc.world
	if f, down := w.down.fault(); down {
		t.fault = f
		return
	}
	if w.calm {
		return
	}
	c, d := w.cond, t.d
	switch {
	case d.chance(c.replyLost):
		t.fault = pick(d, lostOnTheWayBack, truncated)
	case d.chance(c.unreached):
		t.fault = lostOnTheWay
	case d.chance(c.foreign):
		t.fault = replaced
	case d.chance(c.overloaded + c.refused):
		t.fault = overloaded
	}
	if d.chance(c.slow) {
		t.there += d.between(0, w.cond.timeout*3/2)
		t.back += d.between(0, w.cond.timeout/2)
	}
}

// checkSend is the heart of the matter: may this refresh token be sent now? w.mu
// is held.
func (w *world) checkSend(t *trip, token string) {
	a, turn := t.a, t.t
	w.counts.refreshes++
	p, known := w.walletkit.refresh[token]
	w.note(a.String(), "sends", fmt.Sprintf("%s of %s (fault %d)", p, a.key.name, t.fault), nil)
	switch {
	case !known:
		w.violated(a.String(), "sent a refresh token that nobody issued")
		return
	case p.key != a.key:
		w.violated(a.String(), "sent the refresh token of %s for %s", p.key.name, a.key.name)
	case turn == nil:
		w.violated(a.String(), "sent a refresh without the store's exclusion")
		return
	case t.inc.sending[a.key] > 0:
		w.violated(a.String(), "sent a refresh while one is under way from the same process")
	case t.inc.refused[token]:
		w.violated(a.String(), "sent a refresh token again that the server had called over")
	case turn.excl.Err() != nil && !turn.paused:
		w.violated(a.String(), "sent a refresh after it had been told that exclusion is lost")
	}
	w.checkAlone(a, turn)
	if t.req.Header.Get("Authorization") != "" {
		w.violated(a.String(), "sent a refresh with an Authorization")
	}
	if turn.current == nil || p.waited && w.loggedOutSince(p.login) {
		return // a login that could not be stored in time: see checkWrite
	}
	if current, ok := w.walletkit.refresh[turn.current.RefreshToken]; ok && p.order().before(current.order()) {
		w.violated(a.String(), "sent the refresh token of %s though %s was stored", p, current)
	}
	// The same by the store's record, which no handle has had in its hands:
	// what was stored before the lease was given must have been seen.
	r := w.store.records[a.key]
	for _, v := range r.versions {
		if v.session == nil || v.at.After(turn.granted) {
			continue
		}
		if stored, ok := w.walletkit.refresh[v.session.RefreshToken]; ok && stored.login == p.login && p.n < stored.n {
			w.violated(a.String(), "sent the refresh token of %s though %s had been stored before it got the lease", p, stored)
			return
		}
	}
}

// checkAlone demands that nobody else has a refresh of the key under way who
// was not robbed of the lease.
func (w *world) checkAlone(a *actor, mine *turn) {
	for _, p := range w.processes {
		if p.now == nil || p.now == mine.inc || p.now.sending[a.key] == 0 {
			continue
		}
		if other := p.now.turns[a.key]; other != nil && !other.robbed && !mine.robbed && !mine.paused {
			w.violated(a.String(), "sent a refresh while %s has one under way and its lease", other.by)
		}
	}
}

// serveRefresh is WalletKit's answer to a refresh, or what somebody on the way
// answers. The grant is what it was exchanged for.
func (t *trip) serveRefresh(id, token string) (*http.Response, *grant) {
	w := t.inc.world
	w.mu.Lock()
	defer w.mu.Unlock()
	switch t.fault {
	case replaced:
		return t.foreignReply(), nil
	case overloaded:
		return t.overloadedReply(), nil
	}
	k := w.walletkit
	p, ok := k.refresh[token]
	if !ok {
		return t.over(), nil
	}
	if p.ended == "" && p.n < p.newest() {
		w.reused(t, p)
	}
	if p.ended != "" || id != k.session(p).ID {
		return t.over(), nil
	}
	next := k.issue(p.login, t.t)
	w.counts.commits++
	w.note("server", "refreshes", next.String(), nil)
	next.grant().trip = t
	body := encode(k.session(next))
	if t.fault == truncated {
		return t.reply(200, nil, io.MultiReader(bytes.NewReader(body[:len(body)/2]), brokenOff{})), next.grant()
	}
	return t.reply(200, nil, bytes.NewReader(body)), next.grant()
}

// reused ends a session because a used refresh token came back, and asks
// whose fault that is. w.mu is held.
func (w *world) reused(t *trip, p pair) {
	w.walletkit.end(p.login, "reuse of refresh token "+strconv.Itoa(p.n)+" by "+t.a.String())
	switch g := p.grants[p.n+1]; {
	case p.waited && w.loggedOutSince(p.login): // see checkWrite
	case !g.arrived.IsZero() && g.arrived.Before(t.t.granted):
		w.violated(t.a.String(), "a session was lost: %s had been stored", pair{p.login, p.n + 1})
	case t.gone:
		w.counts.lostLate++
	case g.holder == t.inc:
		w.violated(t.a.String(), "a session was lost: the process had %s and sent the token before it", pair{p.login, p.n + 1})
	case g.holder == nil && g.by.inc.dead:
		w.counts.lostCrash++
	case g.holder == nil && g.trip.gone:
		w.counts.lostReply++
	case g.holder == nil:
		w.lostToRobbery(t, p, g)
	case g.holder.dead && !g.holder.stopped:
		w.counts.lostCrash++
	default:
		w.lostToRobbery(t, p, g)
	}
}

// lostToRobbery is for a session that was lost while the process lived that
// had the newer token, or would have had it soon. No lease can prevent that if
// the holder loses it between the server's commit and the save, or cannot
// reach the store to save. If neither was the case somebody erred.
func (w *world) lostToRobbery(t *trip, p pair, g *grant) {
	if !g.by.robbed && !g.by.paused && !g.missed && !t.t.robbed && !t.t.paused {
		w.violated(t.a.String(), "a session was lost without a cause: %s was on its way into the store", pair{p.login, p.n + 1})
		return
	}
	w.counts.lostExclusion++
}

// foreignReply is the answer of a firewall, a captive portal, a proxy that
// mixes its connections up.
func (t *trip) foreignReply() *http.Response {
	html := http.Header{"Content-Type": {"text/html"}}
	page := func(status int) *http.Response {
		return t.reply(status, html, strings.NewReader("<html>not what you wanted</html>"))
	}
	w := t.inc.world
	switch t.d.below(8) {
	case 0:
		return page(200)
	case 1:
		return page(403)
	case 2:
		return page(401)
	case 3:
		return page(404)
	case 4:
		return t.reply(307, http.Header{"Location": {"https://elsewhere.test/"}}, strings.NewReader(""))
	case 5:
		return t.reply(200, nil, strings.NewReader(`{"id":"session-1"}`))
	default: // another user's session
		w.serial++
		other := &login{serial: w.serial, key: t.a.key, user: "somebody else", born: time.Now()}
		w.walletkit.logins = append(w.walletkit.logins, other)
		return t.reply(200, nil, bytes.NewReader(encode(w.walletkit.session(w.walletkit.issue(other, nil)))))
	}
}

func (t *trip) overloadedReply() *http.Response {
	header := http.Header{}
	status := pick(t.d, 500, 502, 503, 504, 408, 429, 429)
	switch w := t.inc.world; {
	case !w.calm && t.asked.login != nil && t.d.chance(w.cond.longWait):
		header.Set("Retry-After", "3600")
		t.asked.bound = true
	case w.down.kind != outageAnswers || !w.calm && (status == 429 || t.d.chance(0.3)):
		header.Set("Retry-After", strconv.Itoa(1+t.d.below(int(maxRetryAfter/time.Second))))
	}
	return t.reply(status, header, strings.NewReader(`{"code":null,"error":"try later"}`))
}

// over is how WalletKit says that a session has ended.
func (t *trip) over() *http.Response {
	return t.reply(pick(t.d, 400, 401, 403), http.Header{"Sim-Over": {"true"}}, strings.NewReader(`{"code":null,"error":"session over"}`))
}

func (t *trip) reply(status int, header http.Header, body io.Reader) *http.Response {
	if header == nil {
		header = http.Header{}
	}
	if header.Get("Content-Type") == "" {
		header.Set("Content-Type", "application/json")
	}
	if cond := t.inc.world.cond; !cond.noDate {
		header.Set("Date", time.Now().Add(cond.dateAhead).UTC().Format(http.TimeFormat))
	}
	return &http.Response{
		StatusCode: status, Status: strconv.Itoa(status) + " " + http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(body), ContentLength: -1, Request: t.req,
	}
}

type brokenOff struct{}

func (brokenOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func encode(s *walletauth.Session) []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return data
}

// serve is WalletKit's answer to everything but refreshes.
func (t *trip) serve() *http.Response {
	w := t.inc.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.calm && !t.a.refusing && t.d.chance(w.cond.failing) {
		if p, ok := w.walletkit.access[strings.TrimPrefix(t.req.Header.Get("Authorization"), "Bearer ")]; ok && t.a.sent == 1 {
			p.grant().helped = true // as far as the Transport can tell
		}
		return t.reply(pick(t.d, 500, 503, 403), nil, strings.NewReader("{}"))
	}
	if strings.HasSuffix(t.req.URL.Path, "/login-anonymously") {
		user := t.req.Header.Get("Sim-User")
		l := w.walletkit.login(t.a.key, user)
		t.a.as = l
		w.note(t.a.String(), "logs in", pair{l, 0}.String()+" as "+user, nil)
		return t.reply(200, nil, bytes.NewReader(encode(w.walletkit.session(pair{l, 0}))))
	}
	return t.serveSession()
}

// serveSession answers a request that needs a session, and checks that it came
// with the right one. w.mu is held.
func (t *trip) serveSession() *http.Response {
	w, a := t.inc.world, t.a
	a.sent++
	token, isBearer := strings.CutPrefix(t.req.Header.Get("Authorization"), "Bearer ")
	p, known := w.walletkit.access[token]
	switch {
	case !isBearer || token == "":
		w.violated(a.String(), "a request went out without a token")
	case !known:
		w.violated(a.String(), "a request went out with a token that nobody issued")
	case p.key != a.key:
		w.violated(a.String(), "a request of %s went out with a token of %s", a.key.name, p.key.name)
	case p.user == "somebody else":
		w.violated(a.String(), "a request of %s went out as somebody else", a.key.name)
	case a.as != nil && a.as.user != p.user:
		w.violated(a.String(), "a request that began as %s was repeated as %s", a.as.user, p.user)
	}
	if t.req.Header.Get("X-WalletKit-Project-ID") != project {
		w.violated(a.String(), "a request went out without its project")
	}
	if a.sent > 2 {
		w.violated(a.String(), "a request was sent %d times", a.sent)
	}
	if !known {
		return t.reply(401, nil, strings.NewReader("{}"))
	}
	a.as, a.last = p.login, p
	w.checkSent(a, p)
	if p.ended != "" || p.grant().revoked || !time.Now().Before(p.grant().ends) || a.refusing || !w.calm && t.d.chance(w.cond.false401) {
		w.note("server", "refuses", a.String()+" with "+p.String(), nil)
		return t.reply(401, nil, strings.NewReader("{}"))
	}
	if strings.HasSuffix(t.req.URL.Path, "/logout") {
		w.counts.logouts++
		w.walletkit.end(p.login, "logout")
	}
	if a.sent == 2 {
		p.grant().helped = true
	}
	return t.reply(200, nil, strings.NewReader("[]"))
}

// checkWrite demands that what a turn stores is newer than what it replaces. w.mu
// is held.
func (w *world) checkWrite(t *turn, r *record, next *walletauth.Session) {
	previous := r.current()
	if next == nil {
		if previous != nil && t.by.kind != manages {
			if p, ok := w.walletkit.refresh[previous.RefreshToken]; ok && !w.loggedOutSince(p.login) {
				w.violated(t.by.String(), "deleted %s, which lives", p)
			}
		}
		r.order = w.orderOfDelete(t)
		return
	}
	p, ok := w.walletkit.refresh[next.RefreshToken]
	switch {
	case !ok:
		w.violated(t.by.String(), "stored a session that nobody issued")
		return
	case p.key != t.key || p.user == "somebody else":
		w.violated(t.by.String(), "stored a session of %s as %s under %s", p.key.name, p.user, t.key.name)
	case previous == nil && p.waited:
		// A login that came while the store was down cannot know of a logout that
		// happened elsewhere until the store was up again.
	case p.order().before(r.order):
		w.violated(t.by.String(), "stored %s over %s, which is newer", p, w.walletkit.describe(previous))
	}
	r.order = p.order()
	p.grant().stored = true
	if key := t.key; key.pending != nil && key.pending.login == p.login {
		key.pending = nil
	}
}

// orderOfDelete says what a deletion that t stores is newer than: for a program
// that calls Delete everything so far, for a logout that a Transport noticed,
// maybe long ago, the session that it ended. w.mu is held.
func (w *world) orderOfDelete(t *turn) order {
	if t.by.kind == manages {
		return order{t.by.serial, 0}
	}
	var last order
	for _, l := range w.walletkit.logins {
		if l.key == t.key && (l.ended == "logout" || l.loggedOut) {
			last = order{l.serial, len(l.grants)}
		}
	}
	return last
}

// checkText demands that an error tells no token. w.mu is held.
func (w *world) checkText(a *actor, err error) {
	if text := err.Error(); strings.Contains(text, "access-token") || strings.Contains(text, "refresh-token-") {
		w.violated(a.String(), "an error tells a token: %s", text)
	}
}

// checkEnd demands that an error which says that a session is gone or over is
// true. w.mu is held.
func (w *world) checkEnd(a *actor, began time.Time, err error) {
	if err == nil || a.at.dead || a.at.stood(began) {
		return
	}
	w.checkText(a, err)
	switch {
	case errors.Is(err, walletauth.ErrSessionExpired):
		for _, l := range w.walletkit.logins {
			if l.key == a.key && l.ended != "" {
				return
			}
		}
		w.violated(a.String(), "a session of %s is called over, and none has ended: %v", a.key.name, err)
	case errors.Is(err, walletauth.ErrNoSession):
		unreachable := a.at.left[a.key] && (w.cond.loadFails > 0 || w.cond.outage > 0) // so it goes by what it knows
		if !unreachable && !w.wasEmpty(a.key, began.Add(-w.cond.lag)) {
			w.violated(a.String(), "there is said to be no session of %s, and there was one all the time: %v", a.key.name, err)
		}
	}
}

// wasEmpty reports whether key had no session at some time since then, or one
// whose logout waits to be stored.
func (w *world) wasEmpty(key *keyTruth, then time.Time) bool {
	versions := w.store.records[key].versions
	for i, v := range versions {
		over := i+1 < len(versions) && versions[i+1].at.Before(then)
		if over {
			continue
		}
		if v.session == nil {
			return true
		}
		if p, ok := w.walletkit.refresh[v.session.RefreshToken]; ok && w.loggedOutSince(p.login) {
			return true
		}
	}
	return false
}

// loggedOutSince reports whether the user has logged out since l, from l or from a
// later login, which may not have been stored.
func (w *world) loggedOutSince(l *login) bool {
	return slices.ContainsFunc(w.walletkit.logins, func(later *login) bool {
		return later.key == l.key && later.serial >= l.serial && (later.ended == "logout" || later.loggedOut)
	})
}

var _ http.RoundTripper = (*network)(nil)

// twist puts something wrong between a Transport and the world. The zero value
// changes nothing.
type twist struct {
	store     func(inc *incarnation) walletauth.TokenStore
	refresher func(inc *incarnation, ctx context.Context, r walletauth.Refresher, s *walletauth.Session) (*walletauth.Session, error)
	client    func(inc *incarnation) http.RoundTripper
}

func (t twist) storeOf(inc *incarnation) walletauth.TokenStore {
	if t.store != nil {
		return t.store(inc)
	}
	return inc.handle
}

func (t twist) refresh(inc *incarnation, r walletauth.Refresher, ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	if t.refresher != nil {
		return t.refresher(inc, ctx, r, s)
	}
	return r.Refresh(ctx, s)
}

func (t twist) clientOf(inc *incarnation) http.RoundTripper {
	if t.client != nil {
		return t.client(inc)
	}
	return inc.transport
}
