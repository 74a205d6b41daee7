package walletauth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/walletauth/walletauth/internal/api"
	"github.com/walletauth/walletauth/internal/serverclock"
)

// Refresher exchanges a refresh token for a new session. Replace the default
// if refreshes go through a backend of your own. It must be safe for
// concurrent use.
type Refresher interface {
	// Refresh returns a new Session for s, which it must not change. Fields that it leaves zero
	// are taken over from s, except AccessTokenExpiresAt: without it the last known lifetime
	// counts, a minute at least. Another user or project is refused. It is called under the
	// store's lock. ctx ends after Transport.RefreshTimeout and carries the values of the
	// request that caused the refresh.
	//
	// An error that wraps ErrSessionExpired ends the session. A RefreshError with StatusCode 0,
	// 408, 429 or 5xx, a net.Error, io.EOF and io.ErrUnexpectedEOF are tried again within
	// RefreshTimeout, no sooner than RetryAfter. After any other the refresh token is not sent
	// for a while.
	Refresh(ctx context.Context, s *Session) (*Session, error)
}

// httpRefresher is the default Refresher. It calls base directly and not
// through an http.Client, which would follow a redirect and repeat the refresh
// token to wherever it leads.
type httpRefresher struct {
	base    func() http.RoundTripper
	url     string
	project string // default: the session's
	server  *serverclock.Clock
}

func (r *httpRefresher) Refresh(ctx context.Context, s *Session) (*Session, error) {
	req, err := r.request(ctx, s)
	if err != nil {
		return nil, &RefreshError{Err: err}
	}
	sent := r.server.LocalNow()
	resp, err := roundTrip(r.base(), req)
	if err != nil {
		return nil, &RefreshError{Err: err}
	}
	defer resp.Body.Close()
	r.server.ObserveDate(resp.Header, sent)
	return r.read(resp)
}

func (r *httpRefresher) request(ctx context.Context, s *Session) (*http.Request, error) {
	body, err := json.Marshal(struct {
		SessionID    string `json:"session_id"`
		RefreshToken string `json:"refresh_token"`
	}{s.ID, s.RefreshToken})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{
		"Content-Type":    {"application/json"},
		"Accept":          {"application/json"},
		api.ProjectHeader: {cmp.Or(r.project, s.ProjectID)},
	}
	return req, nil
}

func (r *httpRefresher) read(resp *http.Response) (*Session, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, api.MaxReply+1))
	if resp.StatusCode != http.StatusOK {
		return nil, r.refusal(resp, body)
	}
	if err != nil { // cut off on the way: the server has rotated, and may answer again
		return nil, &RefreshError{Err: fmt.Errorf("read the reply: %w", err)}
	}
	if len(body) > api.MaxReply {
		return nil, &RefreshError{StatusCode: resp.StatusCode, Err: errors.New("the reply is larger than 1 MiB")}
	}
	s, err := api.DecodeReply(body)
	if err != nil {
		return nil, &RefreshError{StatusCode: resp.StatusCode, Err: fmt.Errorf("the reply is no session: %w", err)}
	}
	return (*Session)(s), nil
}

// refusal describes a reply that is not a 200. Only an ErrorResponse with one
// of three statuses speaks for WalletKit itself and ends the session; the same
// status from a firewall or a proxy says nothing about it.
func (r *httpRefresher) refusal(resp *http.Response, body []byte) *RefreshError {
	e := &RefreshError{
		StatusCode: resp.StatusCode,
		RetryAfter: api.RetryAfter(resp.Header, r.server.Now()),
	}
	code, message, ours := api.ErrorResponse(resp.Header, body)
	e.Code, e.Message = code, message
	switch status := resp.StatusCode; {
	case status == 400 || status == 401 || status == 403:
		e.Err = errors.New("the reply is not WalletKit's: is a firewall or proxy in between?")
		if ours {
			e.Err = ErrSessionExpired
		}
	case status >= 300 && status < 400:
		e.Err = errors.New("refreshes follow no redirect: check BaseURL")
	case !transientStatus(status):
		e.Err = errors.New("check BaseURL")
	}
	return e
}
