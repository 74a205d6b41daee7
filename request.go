package walletauth

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/body"
	"github.com/walletauth/walletauth/internal/policy"
)

// passThrough sends a request that gets no token: to another host, or led to the
// API by one.
func (t *Transport) passThrough(req *http.Request) (*http.Response, error) {
	if err := t.origin.WrongNetwork(req); err != nil {
		return nil, body.Close(req, err)
	}
	return t.send(req, req)
}

// sendToAPI sends a request to the API. It returns the session that was used.
func (t *Transport) sendToAPI(req *http.Request, kind api.Kind) (*http.Response, *Session, error) {
	header, caller := api.CopyHeader(req.Header)
	if !caller.Authorization && (kind == api.WithSession || kind == api.Logout) {
		return t.sendWithSession(req, header, caller)
	}
	_, token, _ := strings.Cut(header.Get(api.AuthHeader), " ")
	resp, err := t.sendWithoutSession(req, header, caller)
	return resp, &Session{AccessToken: token}, err
}

// sendWithoutSession sends a request that takes no token of ours: only the
// project is added.
func (t *Transport) sendWithoutSession(req *http.Request, header http.Header, caller api.CallerHeaders) (*http.Response, error) {
	t.addProject(req, header, caller)
	return t.send(req, cloneRequest(req, header, req.Body))
}

// addProject adds the project where no session is needed. It asks the store
// only if it must, and does without: before a login there is no session.
func (t *Transport) addProject(req *http.Request, header http.Header, caller api.CallerHeaders) {
	if caller.Project {
		return
	}
	project := t.ProjectID
	if project == "" {
		if c, err := t.sessions.load(req.Context(), t.key(req)); err == nil {
			project = c.session.ProjectID
		}
	}
	if project != "" && api.ValidHeaderValue(project) {
		header[api.ProjectHeader] = []string{project}
	}
}

// exchange is a request that is sent with a session's token.
type exchange struct {
	req         *http.Request
	header      http.Header       // a copy, to which the token is added
	caller      api.CallerHeaders // what the caller had set
	key         string
	credentials *credentials // what it was last sent with
	sent        time.Time    // by the local clock
	body        *body.Replay // nil if there is no body
}

// sendWithSession sends a request with the token of its session, and again after
// a 401. It returns the session that was used last.
func (t *Transport) sendWithSession(req *http.Request, header http.Header, caller api.CallerHeaders) (*http.Response, *Session, error) {
	x := &exchange{req: req, header: header, caller: caller, key: t.key(req), sent: t.sessions.server.LocalNow()}
	var err error
	if x.credentials, err = t.sessions.valid(req.Context(), x.key, x.sent); err != nil {
		return nil, nil, body.Close(req, err)
	}
	t.authorize(x)
	out := cloneRequest(req, x.header, req.Body)
	if x.body = body.NewReplay(req, cmp.Or(t.MaxReplayBytes, 64<<10)); x.body != nil {
		defer x.body.Release()
		out.Body = x.body
		if out.GetBody != nil {
			out.GetBody = x.body.GetBody
		}
	}
	resp, err := t.send(req, out)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		resp, err = t.retryUnauthorized(x, resp)
	}
	return resp, x.credentials.session, redactError(err, x.credentials.session)
}

type contextKey struct{}

// WithKey returns a context whose requests use the session stored under key,
// unless [Transport.Key] says otherwise. A key is any string that identifies
// a user; it appears in events and logs, so it must not be a secret. A
// program with one session needs none: without WithKey the key is the empty
// string.
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, contextKey{}, key)
}

// KeyFromContext returns the key that [WithKey] put into ctx, "" if none.
func KeyFromContext(ctx context.Context) string {
	key, _ := ctx.Value(contextKey{}).(string)
	return key
}

func (t *Transport) key(req *http.Request) string {
	if t.Key == nil {
		return KeyFromContext(req.Context())
	}
	return t.Key(req)
}

// cloneRequest is the copy of req that the base transport gets.
func cloneRequest(req *http.Request, header http.Header, body io.ReadCloser) *http.Request {
	out := req.WithContext(req.Context())
	out.Header, out.Body = header, body
	return out
}

// send gives the base transport out, and the caller a response that knows only
// req: what is logged of it holds no token.
func (t *Transport) send(req, out *http.Request) (*http.Response, error) {
	resp, err := roundTrip(t.base(), out)
	if err != nil {
		return nil, err
	}
	resp.Request = req
	return resp, nil
}

func (t *Transport) base() http.RoundTripper {
	if t.Base == nil {
		return http.DefaultTransport
	}
	return t.Base
}

// roundTrip sends req by rt, which need not be net/http's: that one never leaves
// out the response or its body.
func roundTrip(rt http.RoundTripper, req *http.Request) (*http.Response, error) {
	resp, err := rt.RoundTrip(req)
	switch {
	case err != nil:
		return nil, err
	case resp == nil:
		return nil, errors.New("walletauth: Transport.Base returned no response and no error")
	case resp.Body == nil:
		resp.Body = http.NoBody
	}
	return resp, nil
}

// authorize adds the session's headers to x, but none that the caller has set.
func (t *Transport) authorize(x *exchange) {
	x.header[api.AuthHeader] = x.credentials.auth[:]
	if !x.caller.Project {
		x.header[api.ProjectHeader] = x.credentials.project[:]
	}
	if !x.caller.Source {
		x.header[api.SourceHeader] = t.source
	}
}

// retryUnauthorized deals with a 401: it finds the session that replaces the one
// the request went out with and sends the request again, once. If there is none
// the 401 is returned as it came, or the error that the session is over.
func (t *Transport) retryUnauthorized(x *exchange, resp *http.Response) (*http.Response, error) {
	ctx, target := x.req.Context(), policy.Target{Method: api.Method(x.req), Path: x.req.URL.Path}
	t.sessions.server.ObserveDate(resp.Header, x.sent)
	resp = body.ReadAhead(resp) // the connection may be needed for the refresh
	next, refreshed, err := t.sessions.afterUnauthorized(ctx, x.key, target, x.credentials)
	if err != nil {
		body.Discard(ctx, t.sessions.clock, resp)
		return nil, err
	}
	if next == nil {
		return resp, nil
	}
	out, ok := t.rewind(x, next)
	if !ok {
		return resp, nil
	}
	body.Discard(ctx, t.sessions.clock, resp)
	resp, err = t.send(x.req, out)
	if err != nil {
		return nil, err
	}
	accepted := resp.StatusCode != http.StatusUnauthorized
	if !accepted {
		t.sessions.server.ObserveDate(resp.Header, x.sent)
	}
	if err := t.sessions.afterReplay(ctx, x.key, target, next, refreshed, accepted); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// rewind returns the request to send for the second time, or reports that its
// body cannot be had twice.
func (t *Transport) rewind(x *exchange, next *credentials) (out *http.Request, ok bool) {
	out = cloneRequest(x.req, nil, x.req.Body)
	if x.body != nil {
		if out.Body, out.GetBody, ok = x.body.Rewind(x.req.Context(), t.sessions.clock); !ok {
			return nil, false
		}
	}
	x.header = maps.Clone(x.header) // the base transport may hold on to the first one
	x.credentials, x.sent = next, t.sessions.server.LocalNow()
	t.authorize(x)
	out.Header = x.header
	return out, true
}
