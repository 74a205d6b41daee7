package walletauth

import (
	"context"
	"log/slog"
	"time"

	"github.com/walletauth/walletauth/internal/guard"
)

// EventType says what an [Event] reports, in the words that [LogEvents]
// writes.
type EventType string

// The events. A request that finds its token fresh makes none.
const (
	// RefreshBegan: a refresh is about to be sent; Reason says why.
	RefreshBegan EventType = "refresh began"
	// RefreshSucceeded: the server answered with a new session.
	RefreshSucceeded EventType = "refresh succeeded"
	// RefreshFailed: Err says why. The session is kept. Attempts is 0 if none was sent.
	RefreshFailed EventType = "refresh failed"
	// SessionAdopted: no refresh was needed, since the store held a newer session by then.
	SessionAdopted EventType = "session adopted"
	// SessionOver: Err wraps ErrSessionExpired. It comes once for a refresh token.
	SessionOver EventType = "session over"
	// RequestReplayed: a request that got a 401 was sent again, and the answer is no 401.
	RequestReplayed EventType = "request replayed"
	// SaveFailed: a new session or a logout could not be stored, and is tried again.
	SaveFailed EventType = "save failed"
	// EndpointDown: refreshes of several sessions failed; Err is the last failure. Until
	// EndpointUp only some are sent, as probes, and the others fail at once. It has no key.
	EndpointDown EventType = "endpoint down"
	// EndpointUp: it answers again. Held says how many refreshes were not sent. It has no key.
	EndpointUp EventType = "endpoint up"
	// SavedLater: what SaveFailed reported is stored after all.
	SavedLater EventType = "saved later"
)

// Reason says why a refresh began; it is empty outside of refreshes.
type Reason string

// The reasons for a refresh.
const (
	Expiring Reason = "expiring" // the access token is near its expiry
	Expired  Reason = "expired"  // the access token is past its expiry
	Rejected Reason = "rejected" // the API answered 401
)

// Event is one thing worth knowing about a session. It holds no token.
// Fields that do not apply are zero.
type Event struct {
	Type      EventType     // what happened
	Reason    Reason        // why the refresh began that the event is part of
	Key       string        // whose session: an identifier that logs show, so it must not be a secret
	SessionID string        // the session that is current after the event
	UserID    string        // its user, by WalletKit's id
	Duration  time.Duration // since RefreshBegan: retries, pauses and saving included
	Attempts  int           // refreshes sent since RefreshBegan, retries included
	Held      int           // of EndpointUp: refreshes that were not sent
	Err       error         // of RefreshFailed, SessionOver, SaveFailed and EndpointDown
}

// newEvent is an event about s, which may be nil.
func newEvent(what EventType, key string, s *Session, err error) Event {
	e := Event{Type: what, Key: key, Err: err}
	if s != nil {
		e.SessionID, e.UserID = s.ID, s.UserID
	}
	return e
}

func endpointEvent(down bool, err error, held int) Event {
	if down {
		return Event{Type: EndpointDown, Err: err}
	}
	return Event{Type: EndpointUp, Held: held}
}

// LogValue returns the attributes that [LogEvents] writes.
func (e Event) LogValue() slog.Value { return slog.GroupValue(e.attrs()...) }

func (e Event) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("event", string(e.Type))}
	add := func(applies bool, attr slog.Attr) {
		if applies {
			attrs = append(attrs, attr)
		}
	}
	add(e.Reason != "", slog.String("reason", string(e.Reason)))
	add(e.Key != "", slog.String("key", e.Key))
	add(e.SessionID != "", slog.String("session_id", e.SessionID))
	add(e.UserID != "", slog.String("user_id", e.UserID))
	add(e.Duration != 0, slog.Duration("duration", e.Duration))
	add(e.Attempts != 0, slog.Int("attempts", e.Attempts))
	add(e.Held != 0, slog.Int("held", e.Held))
	if e.Err != nil {
		attrs = append(attrs, slog.String("error", e.Err.Error()))
	}
	return attrs
}

func (e Event) level() slog.Level {
	switch e.Type {
	case SessionOver, RefreshFailed, SaveFailed, EndpointDown:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

// LogEvents returns a function for [Transport.OnEvent] that logs each event
// with the message "walletauth" to l, or to [slog.Default] if l is nil.
// [SessionOver], [RefreshFailed], [SaveFailed] and [EndpointDown] are
// warnings, all else is debug. The attributes are event, reason, key,
// session_id, user_id, duration, attempts, held and error, if not zero. It
// is safe for concurrent use.
func LogEvents(l *slog.Logger) func(context.Context, Event) {
	return func(ctx context.Context, e Event) {
		logger := l
		if logger == nil {
			logger = slog.Default()
		}
		logger.LogAttrs(ctx, e.level(), "walletauth", e.attrs()...)
	}
}

// emitter calls OnEvent, and may be nil.
type emitter func(context.Context, Event)

// emit calls OnEvent. The error is that it panicked.
func (fn emitter) emit(ctx context.Context, e Event) error {
	if fn == nil {
		return nil
	}
	return guard.Call("Transport.OnEvent", func() error {
		fn(ctx, e)
		return nil
	})
}

// eventQueue calls OnEvent for the events of one refresh, each at once and in
// order, on a goroutine of its own: a refresh must not wait for OnEvent while it
// holds the store's lock, which OnEvent may want for a Save or Delete.
type eventQueue struct {
	onEvent emitter
	ctx     context.Context
	queue   chan Event
	done    chan struct{}
	err     error // OnEvent panicked; read it after done
}

// maxEvents is more than the events of one refresh.
const maxEvents = 16

func newEventQueue(ctx context.Context, onEvent emitter) *eventQueue {
	q := &eventQueue{onEvent: onEvent, ctx: ctx, done: make(chan struct{})}
	if onEvent == nil {
		close(q.done)
		return q
	}
	q.queue = make(chan Event, maxEvents)
	go q.run()
	return q
}

func (q *eventQueue) run() {
	defer close(q.done)
	for e := range q.queue {
		if err := q.onEvent.emit(q.ctx, e); q.err == nil {
			q.err = err
		}
	}
}

func (q *eventQueue) add(e Event) {
	if q.queue != nil {
		q.queue <- e
	}
}

// close waits until OnEvent has returned from the last event. The error is that
// it panicked. Nothing may be added later.
func (q *eventQueue) close() error {
	if q.queue != nil {
		close(q.queue)
	}
	<-q.done
	return q.err
}
