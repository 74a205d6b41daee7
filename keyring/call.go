package keyring

import (
	"errors"
	"time"
)

var errTimeout = errors.New("no answer within " + callTimeout.String())

// call is a call of the keyring that may never return.
type call struct {
	closed chan struct{} // once it has returned
	err    error         // valid then
}

// start makes a call in a goroutine, since the keyring takes no context. What
// hangs stays behind, and is all that does.
func start(fn func() error) *call {
	c := &call{closed: make(chan struct{})}
	go func() {
		defer close(c.closed)
		c.err = fn()
	}()
	return c
}

// wait returns the call's error, or errTimeout. Only after another error or
// none may the variables be used that the call sets.
func wait(c *call) error {
	timer := time.NewTimer(callTimeout)
	defer timer.Stop()
	select {
	case <-c.closed:
		return c.err
	case <-timer.C:
		return errTimeout
	}
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
