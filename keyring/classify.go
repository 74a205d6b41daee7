package keyring

import (
	"errors"
	"fmt"

	oskeyring "github.com/zalando/go-keyring"
)

var (
	// ErrUnavailable means that there is no keyring: no Secret Service on the
	// D-Bus, no D-Bus, no logon session. So it is on most servers. A program may
	// then seal by a key of its own with [walletauth.NewSealedCodec]. Errors of
	// Codec wrap it: use errors.Is.
	ErrUnavailable = errors.New("keyring: there is no OS keyring")

	// ErrLocked means that there is a keyring and it does not open: it is locked
	// and nobody unlocked it, or it did not answer within 3 seconds, as when it
	// waits for its password. Ask the user to unlock it and try again. A key of
	// the program's own is no way out here: the next start, with the keyring
	// open, could not read what that key sealed. Errors of Codec wrap it: use
	// errors.Is.
	ErrLocked = errors.New("keyring: the OS keyring does not open")
)

// explain says what to do about an error of the keyring. ErrNotFound passes as
// it is, since it is an answer.
func explain(err error) error {
	switch {
	case err == nil, errors.Is(err, oskeyring.ErrNotFound):
		return err
	case errors.Is(err, errTimeout):
		return fmt.Errorf("%w: %w: it may be waiting for its password: unlock it and try again", ErrLocked, err)
	case isLocked(err):
		return fmt.Errorf("%w: %w: %s", ErrLocked, err, unlockRemedy)
	case isUnavailable(err), errors.Is(err, oskeyring.ErrUnsupportedPlatform):
		return fmt.Errorf("%w: %w: %s; %s", ErrUnavailable, err, startRemedy, otherwise)
	}
	return fmt.Errorf("keyring: the OS keyring failed: %w: try again, and see what it says to other programs", err)
}

// otherwise is the way out where there is no keyring, as on a server. It is
// the user's to take: sessions that were to be sealed are not to lie in clear.
const otherwise = "or seal by a key of your own with walletauth.NewSealedCodec; nothing is stored in clear instead"
