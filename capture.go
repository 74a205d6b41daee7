package walletauth

import (
	"context"
	"net/http"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/body"
)

// capture saves what a login's answer carries before the caller sees it, and
// deletes the session s that a logout has ended. A caller that leaves meanwhile
// gets its context's error, and the store is changed all the same.
func (t *Transport) capture(kind api.Kind, req *http.Request, resp *http.Response, s *Session) (*http.Response, error) {
	w := captured(kind, resp, s)
	if w == nil {
		return resp, nil
	}
	ctx, key := req.Context(), t.key(req)
	stored := make(chan struct{})
	go func() {
		defer close(stored)
		t.sessions.capture(context.WithoutCancel(ctx), key, w)
	}()
	select {
	case <-stored:
		return resp, nil
	case <-ctx.Done():
		_ = resp.Body.Close() // nobody gets it
		return nil, ctx.Err()
	}
}

// captured returns what resp changes in the store, nil if nothing.
func captured(kind api.Kind, resp *http.Response, s *Session) *pendingWrite {
	switch {
	case resp.StatusCode/100 != 2:
		return nil
	case kind == api.Logout:
		// Another session that is stored by now stays. A refresh behind the logout
		// may have changed the token and even the id, but not whose login it was and
		// when.
		return &pendingWrite{login: s}
	case kind != api.Login:
		return nil
	}
	data, _ := body.Peek(resp, api.MaxReply) // an answer that breaks off behind a session is good enough
	if s = (*Session)(api.DecodeLogin(resp.Header, data)); s == nil {
		return nil
	}
	return &pendingWrite{session: s, states: []*Session{nil}, before: s.CreatedAt}
}
