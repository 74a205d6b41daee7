package remote

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// memory is a Server for what no real one can be made to do at the right
// moment. What a real one does the tests of the stores show.
type memory struct {
	fault func(method string) error // called first; an error is the answer, and nothing has happened
	away  func(id string) bool      // reports that calls for id fail
	mute  func(id string) bool      // reports that no message of id, or of a probe of its shard, is delivered
	lost  func(method string) bool  // called last; true loses the answer, not the effect
	deaf  bool                      // there is no subscription

	shards []string // beside the one without a name

	mu          sync.Mutex // guards what follows
	rows        map[string]*row
	calls       map[string]int
	subscribers map[*mailbox]bool
}

type row struct {
	Record
	leaseFence int64
	owner      Stamp
	until      time.Time // zero: the owner gave the lease back
}

var errNetwork = errors.New("the network fails")

func (m *memory) call(method, id string, do func(*row)) error {
	if m.fault != nil {
		if err := m.fault(method); err != nil {
			return err
		}
	}
	if m.away != nil && m.away(id) {
		return errNetwork
	}
	m.mu.Lock()
	if m.rows == nil {
		m.rows, m.calls = make(map[string]*row), make(map[string]int)
	}
	m.calls[method]++
	m.calls[method+" "+id]++
	r := m.rows[id]
	if r == nil {
		r = new(row)
		m.rows[id] = r
	}
	do(r)
	m.mu.Unlock()
	if m.lost != nil && m.lost(method) {
		return errNetwork
	}
	return nil
}

func (m *memory) count(method string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[method]
}

func (m *memory) ID(key string) string     { return key }
func (m *memory) Transient(err error) bool { return errors.Is(err, errNetwork) }

func (m *memory) Read(_ context.Context, id string) (got Record, err error) {
	err = m.call("Read", id, func(r *row) { got = r.Record })
	return got, err
}

func (m *memory) Acquire(_ context.Context, id string, owner Stamp, lease time.Duration, force bool) (g Grant, ok bool, err error) {
	err = m.call("Acquire", id, func(r *row) {
		isMine, now := r.owner == owner, time.Now()
		if ok = r.Stamp != owner && (isMine && !r.until.IsZero() || !isMine && now.After(r.until)); !ok {
			return
		}
		if !isMine {
			r.leaseFence = max(r.leaseFence+1, now.UnixMicro())
		}
		r.owner, r.until = owner, now.Add(lease)
		g = Grant{Record: r.Record, LeaseFence: r.leaseFence}
	})
	return g, ok && err == nil, err
}

func (m *memory) Renew(_ context.Context, id string, owner Stamp, lease time.Duration) (ok bool, err error) {
	err = m.call("Renew", id, func(r *row) {
		if ok = r.owner == owner && !r.until.IsZero(); ok {
			r.until = time.Now().Add(lease)
		}
	})
	return ok, err
}

func (m *memory) Release(_ context.Context, id string, owner Stamp) error {
	return m.call("Release", id, func(r *row) { r.free(owner) })
}

func (r *row) free(owner Stamp) {
	if r.owner == owner {
		r.until = time.Time{}
	}
}

func (m *memory) Save(_ context.Context, id string, c Change) (fence int64, ok bool, err error) {
	err = m.call("Save", id, func(r *row) {
		repeated := r.Stamp == c.Stamp
		if ok = repeated || r.Stamp == c.Seen || r.Stamp == (Stamp{}) && r.Data == nil; !ok {
			return
		}
		if fence = c.LeaseFence; repeated {
			fence = r.Fence
		} else if fence <= r.Fence {
			fence = max(r.leaseFence, r.Fence) + 1
		}
		r.leaseFence = max(r.leaseFence, fence)
		r.Record = Record{Stamp: c.Stamp, Fence: fence, Data: c.Data}
		r.free(c.Stamp)
		if m.mute == nil || !m.mute(id) {
			m.tell(Message{ID: id, Fence: fence, Deleted: c.Data == nil})
		}
	})
	return fence, ok, err
}

// tell is called with mu held.
func (m *memory) tell(msg Message) {
	for s := range m.subscribers {
		s.messages <- msg
	}
}

type mailbox struct {
	of       *memory
	messages chan Message
}

func (m *memory) Subscribe(context.Context, string) (Subscription, error) {
	if m.deaf {
		return nil, errors.ErrUnsupported
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.subscribers == nil {
		m.subscribers = make(map[*mailbox]bool)
	}
	s := &mailbox{of: m, messages: make(chan Message, 100)}
	m.subscribers[s] = true
	return s, nil
}

func (m *memory) Probe(_ context.Context, shard, _, payload string) error {
	id := ""
	if shard != "" {
		id = shard + "/"
	}
	return m.call("Probe", id, func(*row) {
		if m.mute == nil || !m.mute(id) {
			m.tell(Message{Echo: payload})
		}
	})
}

// Shard: keys like "b/key" lie in a shard of that name.
func (m *memory) Shard(id string) string {
	name, _, ok := strings.Cut(id, "/")
	if !ok {
		return ""
	}
	return name
}

func (m *memory) Shards(context.Context) ([]string, error) {
	return append([]string{""}, m.shards...), nil
}

func (s *mailbox) Next(ctx context.Context) (Message, error) {
	select {
	case m := <-s.messages:
		return m, nil
	case <-ctx.Done():
		return Message{}, ctx.Err()
	}
}

func (s *mailbox) Close() {
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	delete(s.of.subscribers, s)
}

func newTestStore(t *testing.T, server *memory) *Store {
	t.Helper()
	s := New(Config{
		Name: "test", Server: server, Codec: walletauth.JSONCodec{},
		Lease: 15 * time.Second, MaxCopies: 100, MaxInFlight: 10,
	})
	t.Cleanup(s.Close)
	return s
}

func session(n int) *walletauth.Session {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	id := strconv.Itoa(n)
	return &walletauth.Session{
		ID: id, CreatedAt: at, ProjectID: "p", UserID: "u",
		AccessToken: "access-" + id, AccessTokenExpiresAt: at, RefreshToken: "refresh-" + id, RefreshTokenExpiresAt: at,
	}
}

func save(t *testing.T, s *Store, key string, n int) {
	t.Helper()
	if err := walletauth.Save(t.Context(), s, key, session(n)); err != nil {
		t.Fatal(err)
	}
}

func wantLoad(t *testing.T, s *Store, key string, n int) {
	t.Helper()
	got, err := s.Load(t.Context(), key)
	if err != nil {
		t.Fatalf("Load: %v, want session %d", err, n)
	}
	if got.ID != strconv.Itoa(n) {
		t.Fatalf("Load: session %s, want %d", got.ID, n)
	}
}
