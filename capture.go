package walletauth

import (
	"context"
	"net/http"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/body"
)

// captureSession saves what a login's answer carries before the caller sees it,
// and deletes the session s that a logout has ended.
func (t *Transport) captureSession(kind api.Kind, req *http.Request, resp *http.Response, s *Session) (*http.Response, error) {
	switch {
	case resp.StatusCode/100 != 2:
		return resp, nil
	case kind == api.Login:
		return t.captureLogin(req, resp)
	case kind == api.Logout:
		// Another session that is stored by now stays. A refresh behind the logout
		// may have changed the token and even the id, but not whose login it was and
		// when.
		return t.capture(req, resp, &pendingWrite{login: s}, nil)
	}
	return resp, nil
}

func (t *Transport) captureLogin(req *http.Request, resp *http.Response) (*http.Response, error) {
	data, _ := body.Peek(resp, api.MaxReply) // an answer that breaks off behind a session is good enough
	s := (*Session)(api.DecodeLogin(resp.Header, data))
	if s == nil {
		return resp, nil
	}
	c, _ := newCredentials(s, t.ProjectID) // nil if it cannot be sent, which the next request says
	return t.capture(req, resp, &pendingWrite{session: s, states: []*Session{nil}, before: s.CreatedAt}, c)
}

// capture stores w and then returns resp. A caller that leaves meanwhile gets
// its context's error, and w is stored all the same.
func (t *Transport) capture(req *http.Request, resp *http.Response, w *pendingWrite, c *credentials) (*http.Response, error) {
	ctx, key := req.Context(), t.key(req)
	stored := make(chan struct{})
	go func() {
		defer close(stored)
		if t.sessions.work.Begin() {
			defer t.sessions.work.End()
		}
		if w.session != nil {
			defer w.force()()
		}
		_ = t.sessions.store.write(context.WithoutCancel(ctx), key, w, c) // SaveFailed reports it
	}()
	select {
	case <-stored:
		return resp, nil
	case <-ctx.Done():
		_ = resp.Body.Close() // nobody gets it
		return nil, ctx.Err()
	}
}
