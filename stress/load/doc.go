// Package load is a test of one process with 50,000 sessions whose tokens live
// five seconds, for a minute or as long as it is told:
//
//	go test ./load -v
//	go test ./load -v -load.for=10m -timeout=0 # a soak
//
// # What is shown
//
// No request fails and no refresh token is sent twice. Every session is used in
// turn, and refreshed as often as the times of its requests call for: never less
// often than tokens must have ended between them, never more often than tokens
// can have come of age. A few sessions are in use all the time, by several
// callers at once, so that refreshes ahead and shared ones are among them.
// Memory and goroutines are level from the second quarter to the last, and
// after Shutdown the Transport keeps nothing of 50,000 keys.
//
// With -v it prints how many requests there were and how long they took. That
// is the machine's affair and no promise: what is asserted is relative to when
// each request began and ended, so that a slow machine does less and fails
// nothing.
//
// # How
//
// The stand-in for the API is a process of its own, reached by real HTTP over
// loopback. It has to remember every token that it ever issued, in order to
// notice one that comes back, so that in one process with the client the memory
// that is measured would be the stand-in's. It is built without the race
// detector, which would slow it fourfold and watches nothing of ours there.
package load
