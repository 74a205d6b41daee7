package keyring

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"slices"
)

const (
	startRemedy  = "run the program as a user with a login keychain"
	unlockRemedy = "unlock the login keychain, and allow the program to use it"
)

// /usr/bin/security ends with the last byte of the OSStatus.
const (
	interactionNotAllowed = 36  // errSecInteractionNotAllowed, -25308
	authFailed            = 51  // errSecAuthFailed, -25293
	userCanceled          = 128 // userCanceledErr, -128
	noDefaultKeychain     = 37  // errSecNoDefaultKeychain, -25307
	notAvailable          = 53  // errSecNotAvailable, -25291
)

func isLocked(err error) bool {
	return exitedWith(err, interactionNotAllowed, authFailed, userCanceled)
}

func isUnavailable(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || exitedWith(err, noDefaultKeychain, notAvailable)
}

func exitedWith(err error, codes ...int) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && slices.Contains(codes, exit.ExitCode())
}

// lockKeyring does nothing: no environment variable moves the lock file.
func lockKeyring(context.Context, string) (unlock func(), err error) { return func() {}, nil }
