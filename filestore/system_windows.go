package filestore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// Windows has access lists in place of modes. A folder in the user's profile,
// as the default is, inherits one that admits the user, the system and the
// administrators. Whether another list does cannot be told from a mode, so
// nothing is refused here.

func mine(fs.FileInfo) bool { return true }

func exposed(fs.FileInfo) bool { return false }

// syncFolder does nothing: Windows has no way to flush a folder that an
// ordinary user may open, and NTFS writes a journal of renames.
func syncFolder(*os.Root) error { return nil }

// retryFor bounds the wait for a scanner or an indexer to close a file. Both
// open new files, mostly for some milliseconds.
const retryFor = 2 * time.Second

// retry calls fn until it succeeds or fails for another reason than that
// somebody has the file open. os.Root shares its files for deletion and
// renames over open ones; other programs need not.
func retry(fn func() error) error {
	deadline := time.Now().Add(retryFor)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := fn()
		if !isBusy(err) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(wait)
	}
}

func isBusy(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) ||
		errors.Is(err, windows.ERROR_LOCK_VIOLATION) ||
		errors.Is(err, windows.ERROR_ACCESS_DENIED) ||
		errors.Is(err, windows.ERROR_DELETE_PENDING)
}

func isDiskFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

// isDenied is false, since access is also denied while another program has the
// file open, which passes.
func isDenied(error) bool { return false }

func isReadOnly(err error) bool { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }

func grant(path string, _ fs.FileMode) string {
	return fmt.Sprintf(`icacls "%s" /grant "%%USERNAME%%":F`, path)
}

func own(path string) string { return fmt.Sprintf(`as an administrator, run takeown /f "%s"`, path) }

func removal(path string) string { return fmt.Sprintf(`del "%s"`, path) }
