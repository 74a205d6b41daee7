package walletauth

import "context"

// What follows is for the simulation, which lives in walletauth_test: a look at
// what a Transport remembers, and a way to take chance out of its retries.
// There is none of it outside of tests.

// Remembered is what a Transport holds of its keys.
type Remembered struct{ Flights, Unsaved int }

// Remembers counts what t holds of its keys.
func (t *Transport) Remembers() Remembered {
	if t.keeper == nil {
		return Remembered{}
	}
	t.keeper.mu.Lock()
	flights := len(t.keeper.flying)
	t.keeper.mu.Unlock()
	return Remembered{Flights: flights, Unsaved: len(t.keeper.unsaved.keys())}
}

// WrapRefresher puts wrap around the Refresher that t uses, the default one in
// particular, which no field of Transport gives access to. It must be called
// before t is used.
func (t *Transport) WrapRefresher(wrap func(Refresher) Refresher) error {
	if err := t.ready(); err != nil {
		return err
	}
	t.keeper.refresher = wrap(t.keeper.refresher)
	return nil
}

// RefresherFunc is a Refresher made of a function.
type RefresherFunc func(ctx context.Context, s *Session) (*Session, error)

// Refresh calls f.
func (f RefresherFunc) Refresh(ctx context.Context, s *Session) (*Session, error) { return f(ctx, s) }
