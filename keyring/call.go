package keyring

import (
	"errors"
	"fmt"
	"time"

	oskeyring "github.com/zalando/go-keyring"
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

// explain says what to do about an error of the keyring. ErrNotFound passes as
// it is, since it is an answer.
func explain(err error) error {
	switch {
	case err == nil, errors.Is(err, oskeyring.ErrNotFound):
		return err
	case errors.Is(err, errTimeout):
		return fmt.Errorf("keyring: the OS keyring is not usable: %w: it may be waiting for its password: unlock it and try again; %s", err, otherwise)
	}
	return fmt.Errorf("keyring: the OS keyring is not usable: %w: %s; %s", err, remedy, otherwise)
}

// otherwise is the way out where there is no keyring, as on a server. It is
// the user's to take: sessions that were to be sealed are not to lie in clear.
const otherwise = "where there is none, seal by a key of your own with walletauth.NewSealedCodec; nothing is stored in clear instead"
