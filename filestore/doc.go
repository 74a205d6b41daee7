// Package filestore keeps WalletKit sessions in files, for command-line tools,
// desktop programs and several processes on one machine.
//
//	client := &http.Client{Transport: &walletauth.Transport{
//		Store:     &filestore.Store{App: "my-tool"},
//		ProjectID: "my-project",
//	}}
//
// # Files
//
// A [Store] has one folder. Each session key has up to three files in it,
// named by the SHA-256 of the key, so that a key may be any string and no name
// means anything to an operating system:
//
//	HASH.session  the session, mode 0600
//	HASH.lock     empty; an Update of the key holds its lock, mode 0600
//	HASH.tmp      room for the next session, and then that, during an Update, mode 0600
//
// Lock files are never deleted: who deletes one while it is held lets a second
// holder in. Remove the whole folder, while no program uses it, to forget
// everything.
//
// A session file begins with a line that repeats the hash of its key. A file
// that was copied or renamed to another user's name is refused by that line,
// whatever the codec. The line holds the hash and not the key itself: that is
// all it takes, and a list of users is not for every backup. A hash hides a
// key only as far as it cannot be guessed.
//
// # Several processes
//
// An Update of a key excludes all others of that key on the machine by a lock
// of the kernel's (flock, LockFileEx). It needs no lease and no heartbeat: it
// lasts as long as the process, and the kernel frees it at once when the
// process dies, by SIGKILL too. So it is never lost while it is held, a
// deletion needs no tombstone, since no late holder can bring the session
// back, and the context given to fn ends only when the caller's does, or if the
// disk is full. On the other hand a holder that was stopped (SIGSTOP) makes the
// others wait, each as long as its own context allows.
//
// What one process stored, the others load at their next call.
//
// # Crashes
//
// A session is written beside the old one, synced, renamed over it, and the
// folder synced. At any moment the file is the old session or the new one,
// after a power failure too as far as the disk keeps its word. What a crashed
// writer left is removed by the next Update of that key.
//
// # Files that cannot be read
//
// A file that is damaged, of another format, sealed by a key that is lost, larger
// than 1 MiB, or open to others is an error that wraps [walletauth.ErrUnreadable],
// and never "no session". It is in nobody's way: [walletauth.Save] and
// [walletauth.Delete] replace or remove it without reading it. More than 1 MiB is
// refused when it is saved.
//
// # Full disks
//
// An Update takes the room for another session before it calls fn. If there is
// none, the context given to fn has ended: a Transport then sends no refresh,
// since what that brings could not be stored, and uses the session that is
// stored while its access token is valid. A logout needs no room.
//
// # Who can read it
//
// On Unix the folder has mode 0700 and files have 0600, whatever the umask. A
// folder or file that belongs to somebody else or that others can open is
// refused. On Windows the folder's access list decides, and the user's
// configuration folder is private by default. Programs of the same user can
// read the tokens unless a [walletauth.Codec] seals them, for which see
// [walletauth.NewSealedCodec].
package filestore
