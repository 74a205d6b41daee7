package keyring

import (
	"context"
	"errors"
	"syscall"
)

const (
	startRemedy  = "run the program in a session that is logged on, where the Credential Manager works"
	unlockRemedy = "log on again"
)

// isLocked is false: the Credential Manager is open while the user is logged on.
func isLocked(error) bool { return false }

func isUnavailable(err error) bool {
	const noSuchLogonSession = syscall.Errno(1312) // ERROR_NO_SUCH_LOGON_SESSION
	return errors.Is(err, noSuchLogonSession)
}

// lockKeyring does nothing: processes of one user share the folder of the lock
// file.
func lockKeyring(context.Context, string) (unlock func(), err error) { return func() {}, nil }
