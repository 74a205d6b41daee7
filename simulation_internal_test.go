package walletauth

import "context"

// What follows is for the simulation, which lives in walletauth_test: a look at
// what a Transport remembers, and a way to take chance out of its retries.
// There is none of it outside of tests.

// Remembered is what a Transport holds of its keys.
type Remembered struct{ Flights, Unsaved int }

// Remembers counts what t holds of its keys.
func (t *Transport) Remembers() (r Remembered) {
	if t.sessions == nil {
		return r
	}
	t.sessions.states.mu.Lock()
	defer t.sessions.states.mu.Unlock()
	t.sessions.states.byKey.Range(func(_, v any) bool {
		st := v.(*keyState)
		r.Flights += len(st.calls)
		if st.pending.Load() != nil {
			r.Unsaved++
		}
		return true
	})
	return r
}

// WrapRefresher puts wrap around the Refresher that t uses, the default one in
// particular, which no field of Transport gives access to. It must be called
// before t is used.
func (t *Transport) WrapRefresher(wrap func(Refresher) Refresher) error {
	if err := t.ready(); err != nil {
		return err
	}
	t.sessions.refreshes.refresher = wrap(t.sessions.refreshes.refresher)
	t.sessions.refreshes.process = 1 // drawn by chance otherwise
	return nil
}

// RefresherFunc is a Refresher made of a function.
type RefresherFunc func(ctx context.Context, s *Session) (*Session, error)

// Refresh calls f.
func (f RefresherFunc) Refresh(ctx context.Context, s *Session) (*Session, error) { return f(ctx, s) }
