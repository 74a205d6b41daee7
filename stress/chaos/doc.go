// Package chaos is a test of the stores with the real thing: filestore,
// redisstore, pgxstore and sqlstore, each shared by processes that refresh the
// sessions of many users, while processes are killed, servers are killed and
// stopped, connections are cut, disks are full, and the API fails. It is for
// Linux.
//
//	go test ./chaos                                    # 15 s of faults for each store, at least
//	go test ./chaos -run Redis -chaos.for=1h -timeout=0 # an hour for one
//	go test ./chaos -chaos.for=1h -timeout=0 -v        # an hour for each, one after the other
//
// With -v it prints what was counted. -chaos.seed=N repeats which faults there
// were, and for how long; when they meet a refresh is up to the machine. Faults go
// on until each has struck, there were as many refreshes as users, and a full disk
// has ended the server: a busy machine takes longer and proves the same.
//
// # What is shown
//
// The stand-in for the API ends a session when a refresh token comes twice. All
// that it grants and refuses is written down, and so is what each process got
// and saved, in a pipe that outlives it. In the end every session that was lost
// must be explained: by a process that was killed with a refresh that the API
// had granted it, or was about to, and that was not saved yet. Nobody else can
// know the token that this refresh brought. Any other loss fails the test, with
// the history of the key; so does a request that is told that there is no
// session or that one is over which is not, a token of another user, a process
// that ends by itself, and anything but full recovery: when the faults are over
// every key works in every process, processes shut down in order, and the store
// holds what was issued last. Stores that are wrong on purpose are found out by
// the same bookkeeping.
//
// An API may answer a used refresh token as the first time, for a while: 30
// seconds in another test, with the stores' own lease of 15. Workers are killed
// between commit and save again, and no session may be lost: whoever takes over
// when the lease has ended is granted what the one that was killed had got.
//
// # What is injected
//
//   - Processes: killed by SIGKILL at random, killed instead of the reply to a
//     refresh that was granted, killed within 5 ms after it, so that the moment
//     between commit and save is hit for certain; stopped and continued.
//   - Servers: all processes of Redis, PostgreSQL or MariaDB killed by SIGKILL,
//     and started again; stopped and continued; Redis and PostgreSQL ended because
//     their disk was full.
//   - Connections: cut, refused, delayed, and swallowed, which is a network that
//     takes all data and delivers none, until the connections are reset.
//   - Disks: a small one for the files, the append-only file, the database. It
//     is filled, and kept full.
//   - The API: 503, 429, slow, and hanging up before it has done anything.
//
// # What is not
//
// A reply that is lost on the way to a process that lives on. The API has
// rotated the token, the process cannot know, and asks again as it must after
// an error of the network: no client can save a session from an API that
// answers a lost reply by ending the session. Nor an outage of the store's
// server, or a stop of a process, that outlasts the lease: after it others may
// refresh, and a refresh that was granted before and could not be saved is lost,
// as if its process had died. So nothing lasts longer than a second here, and
// the lease is 8 seconds. Where a busy machine makes more of that second, the
// ledger sees that the process had saved nothing for most of a lease, and counts
// such losses apart. Power failures are not injected either, which take more than
// a process can do.
package chaos
