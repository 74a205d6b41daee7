package walletauth

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
)

// captureLogin saves the session that resp carries before the caller sees it.
func (t *Transport) captureLogin(req *http.Request, resp *http.Response) (*http.Response, error) {
	if resp.StatusCode/100 != 2 {
		return resp, nil
	}
	held := holdBody(resp.Body)
	resp.Body = held
	s := readLogin(resp.Header, held.peek())
	if s == nil {
		return resp, nil
	}
	u := &unsavedSession{session: s, outdated: olderThan(s)}
	return t.capture(req, resp, u, func(*Session) bool { return true })
}

// readLogin returns the session in the body of a login's answer, nil if there
// is none: then the answer is the caller's business alone.
func readLogin(h http.Header, body []byte) *Session {
	if strings.EqualFold(h.Get("Content-Encoding"), "gzip") { // the caller asked for it, or net/http had unpacked it
		body = unpacked(body)
	}
	if len(body) >= maxReply {
		return nil // it is cut off there, and what is missing might belong to it
	}
	s, err := decodeSession(body)
	if err != nil {
		return nil
	}
	return s
}

// unpacked returns nil, which is no session, for what is not gzip or too large.
func unpacked(packed []byte) []byte {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(r, maxReply))
	if err != nil {
		return nil
	}
	return body
}

// olderThan is the outdated of a login of which it is not known what it
// replaces, since the store could not be asked: any session that began before
// it. The login's own refreshes did not, and one may be stored by now.
func olderThan(login *Session) func(*Session) bool {
	return func(current *Session) bool {
		return current == nil || current.CreatedAt.Before(login.CreatedAt)
	}
}

// captureLogout deletes the session that resp confirms the end of, unless
// another one is stored by now. A refresh behind the logout may have changed
// the token and even the id, but not whose login it was and when.
func (t *Transport) captureLogout(req *http.Request, resp *http.Response, out *Session) (*http.Response, error) {
	if resp.StatusCode/100 != 2 {
		return resp, nil
	}
	ended := func(current *Session) bool { return current != nil && sameLogin(current, out) }
	return t.capture(req, resp, &unsavedSession{outdated: ended}, ended)
}

// sameLogin reports whether a and b, of which only the access token may be
// known, stem from one login.
func sameLogin(a, b *Session) bool {
	return a.AccessToken == b.AccessToken || b.ID != "" &&
		(a.ID == b.ID || a.UserID == b.UserID && a.CreatedAt.Equal(b.CreatedAt))
}

// capture stores u and then returns resp. A caller that leaves meanwhile gets
// its context's error, and u is stored all the same.
func (t *Transport) capture(req *http.Request, resp *http.Response, u *unsavedSession, replaces func(*Session) bool) (*http.Response, error) {
	ctx, key := req.Context(), t.key(req)
	stored := make(chan struct{})
	go func() {
		defer close(stored)
		t.keeper.commit(context.WithoutCancel(ctx), key, u, replaces)
	}()
	select {
	case <-stored:
		return resp, nil
	case <-ctx.Done():
		_ = resp.Body.Close() // nobody gets it
		return nil, ctx.Err()
	}
}

// commit stores u where the stored session is one that it replaces, or keeps
// it to be stored later. What is stored is as a request sees it: with the
// change that waits to be stored, which u then settles too.
func (k *keeper) commit(ctx context.Context, key string, u *unsavedSession, replaces func(*Session) bool) {
	if k.work.begin() {
		defer k.work.end()
	}
	outdated, earlier := u.outdated, (*unsavedSession)(nil)
	err := k.change(ctx, key, func(current *Session) *Session {
		seen := current
		if earlier = k.unsaved.of(key); earlier != nil {
			seen = earlier.settle(current)
		}
		if !replaces(seen) {
			earlier = nil
			return current
		}
		// If this fails to be stored, only what it was to replace may be
		// replaced later. That may have been refreshed by then.
		u.outdated = func(now *Session) bool {
			return sameTokens(now, current) || now != nil && outdated(now)
		}
		return u.session
	})
	switch {
	case err != nil:
		_ = k.emit(ctx, eventOf(SaveFailed, key, u.session, scrub(err, u.session)))
		k.saveLater(ctx, key, u.over(k.unsaved.of(key)))
	case earlier != nil:
		k.unsaved.drop(key, earlier)
	}
}

// over returns u as the change after earlier, which has not been stored: u
// replaces what earlier would have replaced. earlier may be nil.
func (u *unsavedSession) over(earlier *unsavedSession) *unsavedSession {
	if earlier == nil || !u.outdated(earlier.session) {
		return u
	}
	return &unsavedSession{session: u.session, outdated: func(current *Session) bool {
		return u.outdated(current) || earlier.outdated(current)
	}}
}
