package walletauth

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// refuse closes the body of a request that is not sent, as a RoundTripper must.
func refuse(req *http.Request, err error) error {
	if req.Body != nil {
		_ = req.Body.Close() // err is what matters
	}
	return err
}

// passBy sends what is none of WalletKit's, redirects away from it included.
func (t *Transport) passBy(req *http.Request) (*http.Response, error) {
	if err := t.api.mixup(req.URL); err != nil {
		if _, own := copyHeader(req.Header); !own.authorization {
			return nil, refuse(req, err)
		}
	}
	return t.base().RoundTrip(req)
}

// sendOwn sends a request whose caller brought an Authorization: only the
// project is added.
func (t *Transport) sendOwn(req *http.Request, header http.Header, own ownHeaders) (*http.Response, error) {
	_, token, _ := strings.Cut(header.Get(authHeader), " ")
	resp, err := t.sendPublic(req, header, own)
	if err == nil && t.CaptureLogin && t.api.isLogout(req) {
		return t.captureLogout(req, resp, &Session{AccessToken: token})
	}
	return resp, err
}

// sendPublic sends a request that takes no token of ours.
func (t *Transport) sendPublic(req *http.Request, header http.Header, own ownHeaders) (*http.Response, error) {
	t.addProject(req, header, own)
	resp, err := t.send(req, outgoing(req, header, req.Body))
	if err == nil && t.CaptureLogin && t.api.isLogin(req) {
		return t.captureLogin(req, resp)
	}
	return resp, err
}

// addProject adds the project where no session is needed. It asks the store
// only if it must, and does without: before a login there is no session.
func (t *Transport) addProject(req *http.Request, header http.Header, own ownHeaders) {
	if own.project {
		return
	}
	project := t.ProjectID
	if project == "" {
		if s, err := t.keeper.load(req.Context(), t.key(req)); err == nil {
			project = s.ProjectID
		}
	}
	if project != "" && validHeaderValue(project) {
		header[projectHeader] = []string{project}
	}
}

// exchange is a request that is sent with a session's token.
type exchange struct {
	req     *http.Request
	header  http.Header // a copy, to which the token is added
	own     ownHeaders  // what the caller had set
	key     string
	session *Session
	sent    time.Time   // by the local clock
	body    *replayBody // nil if nothing is kept
}

// sendSession sends a request with the token of its session, and deals with a
// 401.
func (t *Transport) sendSession(req *http.Request, header http.Header, own ownHeaders) (*http.Response, error) {
	x := exchange{req: req, header: header, own: own, key: t.key(req), sent: t.keeper.server.local()}
	var err error
	if x.session, err = t.keeper.fit(req.Context(), x.key, x.sent); err == nil {
		err = t.authorize(x)
	}
	if err != nil {
		return nil, refuse(req, err)
	}
	body := req.Body
	if x.body = keepBody(req, t.maxReplay()); x.body != nil {
		defer x.body.release()
		body = x.body
	}
	resp, err := t.send(req, outgoing(req, x.header, body))
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		resp, x.session, err = t.mend(x, resp)
	}
	if err == nil && t.CaptureLogin && t.api.isLogout(req) {
		return t.captureLogout(req, resp, x.session)
	}
	return resp, scrub(err, x.session)
}

// outgoing is the copy of req that the base transport gets.
func outgoing(req *http.Request, header http.Header, body io.ReadCloser) *http.Request {
	out := req.WithContext(req.Context())
	out.Header, out.Body = header, body
	return out
}

// send gives the base transport out, and the caller a response that knows only
// req: what is logged of it holds no token.
func (t *Transport) send(req, out *http.Request) (*http.Response, error) {
	resp, err := t.base().RoundTrip(out)
	if err != nil {
		return nil, err
	}
	resp.Request = req
	return resp, nil
}

// bearer is a session as header values. Requests share it, so that a request
// with the session of the one before costs no string.
type bearer struct {
	key           string
	session       *Session
	auth, project [1]string
}

const bearerPrefix = "Bearer "

// is reports whether b is the session s of key. It compares what would be
// sent: a store may return the same session at another address each time, or,
// though it should not, another one at the same address.
func (b *bearer) is(key string, s *Session) bool {
	return b != nil && b.key == key && b.auth[0][len(bearerPrefix):] == s.AccessToken && b.session.ProjectID == s.ProjectID
}

// authorize adds the session's headers to the exchange, but none that the
// caller has set.
func (t *Transport) authorize(x exchange) error {
	b := t.keeper.last.Load()
	if !b.is(x.key, x.session) {
		var err error
		if b, err = t.newBearer(x.key, x.session); err != nil {
			return err
		}
		t.keeper.last.Store(b)
	}
	x.header[authHeader] = b.auth[:]
	if !x.own.project {
		x.header[projectHeader] = b.project[:]
	}
	if !x.own.source {
		x.header[sourceHeader] = t.source
	}
	return nil
}

func (t *Transport) newBearer(key string, s *Session) (*bearer, error) {
	b := &bearer{key: key, session: s}
	b.auth[0] = bearerPrefix + s.AccessToken
	if b.project[0] = t.ProjectID; b.project[0] == "" {
		b.project[0] = s.ProjectID
	}
	switch {
	case s.AccessToken == "" || !validHeaderValue(s.AccessToken):
		return nil, errors.New("walletauth: the stored session's access token cannot be sent in a header")
	case b.project[0] == "" || !validHeaderValue(b.project[0]):
		return nil, errors.New("walletauth: no project that can be sent in a header: set Transport.ProjectID")
	}
	return b, nil
}

// ownHeaders are those of the three that the caller has set.
type ownHeaders struct{ authorization, project, source bool }

// copyHeader copies h with room for our three fields. A field that stands in
// the map in another case than net/http's, put there past Header.Set, is the
// same field and comes out in the usual case; one without a value counts as
// not set.
func copyHeader(h http.Header) (out http.Header, own ownHeaders) {
	out = make(http.Header, len(h)+missing(h))
	for name, values := range h {
		if ours := own.find(name); ours != "" {
			if !hasValue(values) || name != ours && out[ours] != nil {
				continue
			}
			own.set(ours)
			name = ours
		}
		out[name] = values
	}
	return out, own
}

// missing counts our fields that h lacks, where it matters: up to eight fields
// fit into the smallest map there is, which saves two allocations.
func missing(h http.Header) int {
	n := 3
	if len(h) <= 5 {
		return n
	}
	for _, name := range [...]string{authHeader, projectHeader, sourceHeader} {
		if _, ok := h[name]; ok {
			n--
		}
	}
	return n
}

// find returns the canonical name if name is one of our three.
func (ownHeaders) find(name string) string {
	switch {
	case len(name) == len(authHeader) && strings.EqualFold(name, authHeader):
		return authHeader
	case len(name) == len(projectHeader) && strings.EqualFold(name, projectHeader):
		return projectHeader
	case len(name) == len(sourceHeader) && strings.EqualFold(name, sourceHeader):
		return sourceHeader
	default:
		return ""
	}
}

func (o *ownHeaders) set(name string) {
	switch name {
	case authHeader:
		o.authorization = true
	case projectHeader:
		o.project = true
	case sourceHeader:
		o.source = true
	}
}

func hasValue(values []string) bool {
	return slices.ContainsFunc(values, func(v string) bool { return v != "" })
}

// mend deals with a 401: it finds the session that replaces the one the request
// went out with and sends the request again, once. What cannot be mended
// returns the 401 as it came. The session returned is the one that was used
// last.
func (t *Transport) mend(x exchange, resp *http.Response) (*http.Response, *Session, error) {
	k, ctx := t.keeper, x.req.Context()
	k.server.learn(resp.Header, x.sent)
	held := holdBody(resp.Body)
	resp.Body = held
	next := k.replacement(ctx, x.key, x.endpoint(), x.session)
	if err := ctx.Err(); err != nil {
		_ = held.Close() // nobody gets it
		return nil, x.session, err
	}
	if next == nil || next.UserID != x.session.UserID { // never as somebody else
		return resp, x.session, nil
	}
	x.header, x.session, x.sent = maps.Clone(x.header), next, k.server.local() // the base transport may hold on to the first header
	if err := t.authorize(x); err != nil {
		return resp, next, nil
	}
	out, ok := t.again(x)
	if !ok {
		k.unproven.clear(x.key) // nobody is about to prove it
		k.refuses(x.key, x.endpoint(), next, refusedUnseen)
		return resp, next, nil
	}
	held.discard(ctx, k.clock)
	resp, err := t.replay(x, out)
	return resp, next, err
}

// endpoint is where the request goes, to tell an endpoint that refuses every
// token from a token that every endpoint refuses.
func (x exchange) endpoint() string { return "\x00" + method(x.req) + " " + x.req.URL.Path }

// again returns the request to send for the second time, or reports that its
// body cannot be had twice. A body that was kept gets a GetBody on the way,
// since net/http repeats a request that a connection did not take.
func (t *Transport) again(x exchange) (out *http.Request, ok bool) {
	out = outgoing(x.req, x.header, x.req.Body)
	if bodyless(x.req) {
		return out, true
	}
	if x.body != nil {
		whole, ok := x.body.rest(x.req.Context(), t.keeper.clock)
		if !ok {
			return nil, false
		}
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(whole)), nil }
	}
	if out.GetBody == nil {
		return nil, false
	}
	var err error
	out.Body, err = out.GetBody()
	return out, err == nil
}

// replay sends the request for the second and last time.
func (t *Transport) replay(x exchange, out *http.Request) (*http.Response, error) {
	k := t.keeper
	resp, err := t.send(x.req, out)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusUnauthorized:
		k.server.learn(resp.Header, x.sent)
		k.refuses(x.key, x.endpoint(), x.session, refusedAgain)
	default:
		k.proven(x.key, x.endpoint())
		_ = k.emit(x.req.Context(), eventOf(RequestReplayed, x.key, x.session, nil)) // there is a response to return
	}
	return resp, nil
}
