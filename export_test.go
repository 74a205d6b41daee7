package walletauth

// What follows is for the simulation: a look at what a Transport remembers, and
// its Refresher, which no field gives access to. There is none of it outside of
// tests.

// Remembers counts the refreshes of t that are in progress, and the sessions that
// its store has not taken.
func (t *Transport) Remembers() (calls, unsaved int) {
	if t.sessions == nil {
		return 0, 0
	}
	states := t.sessions.states
	states.Lock()
	defer states.Unlock()
	states.All(func(_ string, st *keyState) {
		calls += len(st.calls)
		if st.pending.Load() != nil {
			unsaved++
		}
	})
	return calls, unsaved
}

// WrapRefresher puts wrap around the Refresher that t uses, and fixes what t
// draws by chance otherwise. It must be called before t is used.
func (t *Transport) WrapRefresher(wrap func(Refresher) Refresher) error {
	if err := t.ready(); err != nil {
		return err
	}
	refreshes := t.sessions.refreshes
	refreshes.refresher, refreshes.process = wrap(refreshes.refresher), 1
	return nil
}
