package walletauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Status is what is known of a session, see [Transport.Status].
type Status struct {
	Session   *Session  // nil if there is none; printing it shows no token
	Over      error     // wraps ErrSessionExpired once the session has ended
	Unsaved   bool      // the store has not taken the session yet
	LastError error     // of the last refresh or save, nil since the last success
	RetryAt   time.Time // when a refresh may be tried again; zero: now
}

// Status returns what is known of the session of ctx, without network and
// without a refresh.
func (t *Transport) Status(ctx context.Context) (Status, error) {
	key, err := t.keyOf(ctx)
	if err != nil {
		return Status{}, err
	}
	s, err := t.keeper.load(ctx, key)
	if errors.Is(err, ErrNoSession) {
		return Status{}, nil
	}
	if err != nil {
		return Status{}, err
	}
	own := *s
	st := Status{Session: &own, Over: t.keeper.ended.cause(s), Unsaved: t.keeper.unsaved.of(key) != nil}
	if failed, left := t.keeper.cooling.active(key); left > 0 {
		st.LastError, st.RetryAt = failed.err, t.keeper.clock.Now().Add(left)
	}
	return st, nil
}

// Renew returns a session newer than rejected, which was refused outside of
// HTTP.
func (t *Transport) Renew(ctx context.Context, rejected *Session) (*Session, error) {
	if rejected == nil {
		return nil, errors.New("walletauth: Renew needs the session that was refused")
	}
	key, err := t.keyOf(ctx)
	if err != nil {
		return nil, err
	}
	now, err := t.keeper.load(ctx, key)
	if err != nil {
		return nil, err
	}
	if !newer(now, rejected, Rejected) {
		if now, err = t.keeper.refresh(ctx, key, rejected, Rejected); err != nil {
			return nil, err
		}
	}
	own := *now
	return &own, nil
}

// Logout forgets the session of ctx, then tells WalletKit.
func (t *Transport) Logout(ctx context.Context) error {
	key, err := t.keyOf(ctx)
	if err != nil {
		return err
	}
	s, loadErr := t.keeper.load(ctx, key)
	err = Delete(ctx, t.Store, key)
	if loadErr != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, reqErr := http.NewRequestWithContext(ctx, http.MethodPost, t.api.url(logoutPath), nil)
	if reqErr != nil {
		return errors.Join(err, reqErr)
	}
	req.Header.Set(authHeader, "Bearer "+s.AccessToken)
	req.Header.Set(projectHeader, s.ProjectID)
	req.Header.Set(sourceHeader, t.source[0])
	resp, reqErr := t.base().RoundTrip(req)
	if reqErr != nil {
		return errors.Join(err, fmt.Errorf("walletauth: logged out here, but WalletKit was not told: %w", scrub(reqErr, s)))
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxReply))
	if resp.StatusCode/100 != 2 {
		reqErr = fmt.Errorf("walletauth: logged out here, but WalletKit answered %s", resp.Status)
	}
	return errors.Join(err, reqErr)
}
