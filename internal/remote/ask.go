package remote

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// gate bounds how many questions are with the server at once, so that a
// thousand refreshes do not queue up in front of the program's own queries:
// the client's pool belongs to the program.
type gate chan struct{}

type answer[T any] struct {
	value T
	err   error
}

// errSilent is a server that did not answer in time.
var errSilent = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)

// begin carries a question to the server out on a goroutine of its own, with
// the values of ctx and without its end: go-redis heeds no deadline while a
// command runs, and pgx closes a connection whose query is given up. A panic
// in there becomes an error, as nobody else could recover from it.
func begin[T any](ctx context.Context, g gate, timeout time.Duration, question func(context.Context) (T, error)) <-chan answer[T] {
	answered := make(chan answer[T], 1) // nobody may be waiting any more
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		a := answer[T]{err: errors.New("the client ended its goroutine (runtime.Goexit)")}
		defer func() {
			if p := recover(); p != nil {
				a.err = fmt.Errorf("the client panicked: %v", p)
			}
			answered <- a
		}()
		select {
		case g <- struct{}{}:
			defer func() { <-g }()
			a.value, a.err = question(ctx)
		case <-ctx.Done():
			a.err = errSilent
		}
	}()
	return answered
}

// ask waits for the answer until ctx ends or timeout has passed, which not
// every client does by itself.
func ask[T any](ctx context.Context, g gate, timeout time.Duration, question func(context.Context) (T, error)) (T, error) {
	var none T
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	select {
	case a := <-begin(ctx, g, timeout, question):
		return a.value, a.err
	case <-limit.C:
		return none, errSilent
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// persist asks until the server answers, for as long as limit allows and what
// fails may pass.
func persist[T any](ctx context.Context, s *Store, limit time.Duration, question func(context.Context) (T, error)) (T, error) {
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		value, err := ask(ctx, s.gate, answerWithin, question)
		if err == nil || !s.transient(err) || time.Since(began) > limit || !sleep(ctx, jitter(pause)) {
			return value, err
		}
	}
}

func (s *Store) transient(err error) bool {
	return errors.Is(err, errSilent) || s.Server.Transient(err)
}
