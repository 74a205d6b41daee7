package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/walletauth/walletauth/internal/remote"
)

// Neither database tells of changes, so a process looks for them: it asks for
// the rows whose updated_at is not older than its last look, by an index.
//
// The time of a row is taken when its statement begins, and the row can be seen
// when the statement has been committed: one with an earlier time may come to
// light after one with a later time has been seen. So each look goes back by a
// window, and what was told of within it is not told again. A statement that
// took longer could still be missed. But who sent it knows how long it took,
// from before it was sent until the reply, and does not let it count: it writes
// again, with the time of then, until that is done in time. The process that has
// looked last saw nothing of it before, so that it will be within the window.
//
// A counter would be the other way. To be in the order of the commits it must be
// drawn under a lock that is held until the commit is on the disk, so that no
// two saves could go there together; and AUTO_INCREMENT is drawn without one,
// with gaps that nobody can tell from commits to come.
const (
	window = 2 * time.Second
	inTime = window / 2 // the other half is for clocks that are adjusted

	every       = 100 * time.Millisecond
	everyPragma = 20 * time.Millisecond // which costs some microseconds
	lookWithin  = 5 * time.Second

	// A look reads all rows of the window again. While many change, that must not
	// be all that a process does: it pauses for ten times as long as a look took, up
	// to what it pauses where there is no pragma.
	pausePerLook = 10
)

// What is later than now by more than the window is from before the clock was
// set back, and would be found for as long as that lasts.
const changesSQL = `
SELECT NULL, 0, 0, NOW
UNION ALL
SELECT key_hash, data_fence, data IS NULL, NOW FROM walletauth_sessions WHERE updated_at > ? AND updated_at <= NOW + WINDOW`

// subscription looks for changes on behalf of one reader.
type subscription struct {
	server *server
	name   string
	conn   *sql.Conn // whose pragma tells whether to look; nil: always

	version int64            // what the pragma told last
	looked  int64            // when the last look was, by the clock of the server
	took    time.Duration    // for how long it read the table, 0 if it did not
	told    map[string]int64 // the fences by id within the window
	queue   []remote.Message

	mu     sync.Mutex // guards probes
	probes []string
}

// Subscribe holds a connection for SQLite, as data_version counts the changes
// that others than this connection have made. A pool of one has none to hold.
func (s *server) Subscribe(ctx context.Context, echo string) (_ remote.Subscription, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	sub := &subscription{server: s, name: echo}
	if s.dialect.tells && s.db.Stats().MaxOpenConnections != 1 {
		if sub.conn, err = s.db.Conn(ctx); err != nil {
			return nil, err
		}
	}
	if err := sub.look(ctx, math.MaxInt64); err != nil { // which finds nothing but the time
		sub.Close()
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.subscriptions == nil {
		s.subscriptions = make(map[string]*subscription)
	}
	s.subscriptions[echo] = sub
	return sub, nil
}

// Probe comes back after the next look that begins from now on, and has it read
// the table as it is now, whatever the pragma says.
func (s *server) Probe(_ context.Context, _, echo, payload string) error {
	s.mu.Lock()
	sub := s.subscriptions[echo]
	s.mu.Unlock()
	if sub == nil {
		return fmt.Errorf("no subscription is named %q", echo)
	}
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.probes = append(sub.probes, payload)
	return nil
}

func (s *subscription) Next(ctx context.Context) (remote.Message, error) {
	pause := time.NewTimer(s.pause())
	defer pause.Stop()
	for len(s.queue) == 0 {
		select {
		case <-pause.C:
		case <-ctx.Done():
			return remote.Message{}, ctx.Err()
		}
		pause.Reset(s.pause())
		if err := s.lookIfChanged(ctx); err != nil {
			return remote.Message{}, err
		}
	}
	next := s.queue[0]
	s.queue = s.queue[1:]
	return next, nil
}

func (s *subscription) pause() time.Duration {
	if s.conn == nil {
		return every
	}
	return min(max(pausePerLook*s.took, everyPragma), every)
}

func (s *subscription) lookIfChanged(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	s.took = 0
	probes := s.takeProbes()
	changed, err := s.changed(ctx)
	if err != nil || !changed && len(probes) == 0 {
		return err
	}
	began := time.Now()
	defer func() { s.took = time.Since(began) }()
	if err := s.look(ctx, s.looked-window.Microseconds()); err != nil {
		return err
	}
	for _, payload := range probes {
		s.queue = append(s.queue, remote.Message{Echo: payload})
	}
	return nil
}

func (s *subscription) takeProbes() (probes []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	probes, s.probes = s.probes, nil
	return probes
}

// changed reports whether anything may have changed since it was called last.
func (s *subscription) changed(ctx context.Context) (bool, error) {
	if s.conn == nil {
		return true, nil
	}
	last := s.version
	err := patiently(ctx, func() error { return s.conn.QueryRowContext(ctx, "PRAGMA data_version").Scan(&s.version) })
	return s.version != last, err
}

var errSetBack = errors.New("the clock of the server was set back: changes may have been missed")

// look queues a message for each row that was changed after since and not told
// of yet.
func (s *subscription) look(ctx context.Context, since int64) error {
	var found []remote.Message
	var now int64
	if err := patiently(ctx, func() (err error) {
		found, now, err = s.find(ctx, since)
		return err
	}); err != nil {
		return err
	}
	if now < s.looked {
		return errSetBack
	}
	told := make(map[string]int64)
	for _, m := range found {
		if fence, isTold := s.told[m.ID]; !isTold || fence != m.Fence {
			s.queue = append(s.queue, m)
		}
		told[m.ID] = m.Fence
	}
	s.looked, s.told = now, told
	return nil
}

// find returns the rows that were changed after since, and the time by the clock
// of the server, from before it looked.
func (s *subscription) find(ctx context.Context, since int64) (found []remote.Message, now int64, err error) {
	rows, err := s.query(ctx, s.server.changes, since)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var id []byte
		var m remote.Message
		if err := rows.Scan(&id, &m.Fence, &m.Deleted, &now); err != nil {
			return nil, 0, err
		}
		if m.ID = string(id); m.ID != "" { // which is the row that tells the time
			found = append(found, m)
		}
	}
	return found, now, rows.Err()
}

func (s *subscription) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if s.conn != nil {
		return s.conn.QueryContext(ctx, query, args...)
	}
	return s.server.db.QueryContext(ctx, query, args...)
}

func (s *subscription) Close() {
	s.server.mu.Lock()
	delete(s.server.subscriptions, s.name)
	s.server.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close() // it goes back to the pool
	}
}
