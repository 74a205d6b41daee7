package keymap

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const recentKeys = 1 << 10

// state has an effect until some time.
type state struct {
	until time.Time
	made  int // how many were before it
}

// newMap returns a map whose clock reads now.
func newMap(now *time.Time) *Map[state] {
	m := &Map[state]{Now: func() time.Time { return *now }, Recent: recentKeys}
	m.Init = func(st *state) { st.made = m.size }
	m.Sweep = func(now time.Time) func(*state, bool) bool {
		return func(st *state, _ bool) bool { return !now.Before(st.until) }
	}
	return m
}

// use uses a key as a request does.
func (m *Map[S]) use(key string) {
	m.SweepIfDue(m.Now())
	if m.Lookup(key) == nil {
		m.Lock()
		m.Use(key)
		m.Unlock()
	}
}

// age makes all keys look as if they had not been used for long.
func (m *Map[S]) age() { m.epoch.Add(2) }

func TestAKeyWithoutAStateCostsNothing(t *testing.T) {
	now := noon
	m := newMap(&now)
	if m.Lookup("key") != nil || m.Peek("key") != nil || m.size != 0 {
		t.Errorf("it has one of %d", m.size)
	}
	m.All(func(string, *state) { t.Error("there is one") })
}

func TestAKeyHasOneState(t *testing.T) {
	now := noon
	m := newMap(&now)
	first, second := m.State("first"), m.Use("second")
	for i, got := range []*state{m.State("first"), m.Use("first"), m.Peek("first"), m.Lookup("first")} {
		if got != first {
			t.Errorf("look %d found another", i)
		}
	}
	if first == second || first.made != 0 || second.made != 1 {
		t.Errorf("first %+v, second %+v", first, second)
	}
	all := map[string]*state{}
	m.All(func(key string, st *state) { all[key] = st })
	if len(all) != 2 || all["first"] != first || all["second"] != second {
		t.Errorf("all: %v", all)
	}
}

func TestTheKeysUsedLastAreKept(t *testing.T) {
	now := noon
	m := newMap(&now)
	const keys = 100_000
	for i := range keys {
		m.use(fmt.Sprint(i))
		m.use("always")
		now = now.Add(10 * time.Millisecond)
		if m.size > 4*recentKeys {
			t.Fatalf("after %d keys, %d are kept, want %d at most", i, m.size, 4*recentKeys)
		}
	}
	for i := keys - recentKeys + 1; i < keys; i++ { // with "always" they are 1,024
		if m.Peek(fmt.Sprint(i)) == nil {
			t.Fatalf("key %d of %d is dropped", i, keys)
		}
	}
	if m.Peek("always") == nil {
		t.Error("the key in use is dropped")
	}
	if m.Peek("0") != nil {
		t.Error("the first key is kept")
	}
}

func TestAKeyThatIsLookedUpIsRecent(t *testing.T) {
	now := noon
	m := newMap(&now)
	m.State("key")
	m.Lookup("key")
	m.State("another")
	m.Peek("another")
	now = now.Add(time.Hour)
	m.SweepIfDue(now)
	if m.Peek("key") == nil || m.Peek("another") != nil {
		t.Errorf("kept: %t, %t, want the first only", m.Peek("key") != nil, m.Peek("another") != nil)
	}
}

func TestWhileNoKeyIsUsedAllRecentOnesStay(t *testing.T) {
	now := noon
	m := newMap(&now)
	for i := range recentKeys {
		m.use(fmt.Sprint(i))
	}
	for range 10 {
		now = now.Add(time.Hour)
		m.SweepIfDue(now)
	}
	if m.size != recentKeys {
		t.Errorf("%d of %d are kept", m.size, recentKeys)
	}
}

func TestAStateStaysWhileItHasAnEffect(t *testing.T) {
	now := noon
	m := newMap(&now)
	m.State("key").until = noon.Add(time.Hour)
	for _, row := range []struct {
		at   time.Duration
		kept bool
	}{{0, true}, {time.Hour - 1, true}, {time.Hour + SweepInterval, false}} {
		m.SweepIfDue(noon.Add(row.at))
		if kept := m.Peek("key") != nil; kept != row.kept {
			t.Errorf("after %v kept: %t, want %t", row.at, kept, row.kept)
		}
	}
}

func TestRecentStatesAreSweptTooAndKept(t *testing.T) {
	now := noon
	m := newMap(&now)
	seen := map[bool]int{}
	m.Sweep = func(time.Time) func(*state, bool) bool {
		return func(_ *state, recent bool) bool { seen[recent]++; return true }
	}
	m.Use("recent")
	m.State("not recent")
	m.SweepIfDue(noon)
	if seen[true] != 1 || seen[false] != 1 || m.size != 1 || m.Peek("recent") == nil {
		t.Errorf("seen %v, %d kept", seen, m.size)
	}
}

func TestSweepRunsOnceAMinute(t *testing.T) {
	now := noon
	m := newMap(&now)
	sweeps := func(at time.Duration) bool {
		m.use("key")
		m.age()
		m.SweepIfDue(noon.Add(at))
		return m.size == 0
	}
	m.SweepIfDue(noon)
	if sweeps(SweepInterval - 1) {
		t.Error("swept within a minute")
	}
	if !sweeps(SweepInterval) {
		t.Error("not swept after a minute")
	}
}

func TestNewKeysSweepWhenTheMapHasGrown(t *testing.T) {
	now := noon
	m := newMap(&now)
	for i := range 100_000 { // of which none is used
		m.State(fmt.Sprint(i))
	}
	if m.size > 3*recentKeys {
		t.Errorf("%d states are kept that have no effect", m.size)
	}
}

func TestSweepDoesNotHoldUpARequest(t *testing.T) {
	now := noon
	m := newMap(&now)
	m.Lock()
	defer m.Unlock()
	m.SweepIfDue(noon) // would wait for good
}

func TestMapIsSafeForConcurrentUse(t *testing.T) {
	now := noon
	m := newMap(&now)
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 5000 {
				m.use(fmt.Sprint(i % (100 * (g + 1))))
			}
		})
	}
	all.Wait()
	if m.size != 800 {
		t.Errorf("%d states, want 800", m.size)
	}
}
