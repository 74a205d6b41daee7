// Package walletauth keeps a WalletKit session alive under any HTTP client. It
// is an [http.RoundTripper] that adds the session's access token to requests,
// trades the refresh token for a new session before the access token expires or
// when the API answers 401, and writes what it got to a store.
//
// Most programs need a [Transport], a [TokenStore] and [Save]:
//
//	store := &walletauth.MemoryStore{}
//	client := &http.Client{Transport: &walletauth.Transport{
//		Store:     store,
//		ProjectID: "my-project",
//		BaseURL:   walletauth.Mainnet,
//	}}
//	err := walletauth.Save(ctx, store, "", session) // once, after a login
//
// The client is then used as it was before. Two errors concern the user:
// [ErrNoSession], log in, and [ErrSessionExpired], log in again. Any other may
// pass by itself.
//
// # How a request goes
//
// Only a request to the scheme, host and port of [Transport.BaseURL] and under
// its path gets a token. All others, redirects to elsewhere included, pass
// through as they are; but one to Mainnet through a Transport for Testnet, or the
// reverse, is refused as the mix-up that it is. The store is asked for the session
// of the request's key, a copy of the request gets three headers (Authorization,
// X-WalletKit-Project-ID and X-WalletKit-Token-Source) and goes out through
// [Transport.Base]. A header that the caller has set is kept, and with an
// Authorization of the caller's own nothing is refreshed. The endpoints that log
// users in get the project alone, and need no session.
//
// As long as the token is fresh that is all: no lock is waited for, no goroutine
// started, and nothing kept of the key, but for the session that was used last.
//
// # Refreshing
//
// Within [Transport.RefreshBefore] of the expiry, by default the last fifth of the
// token's life but at most a minute, requests still go out at once, and one
// refresh runs behind them. In the last moments, a tenth of the life but at
// most ten seconds, they wait for it, and go out with the old token if it fails.
// Expiry is judged by the server's clock, as its Date headers tell it, so a
// client whose clock is wrong refreshes no more often than others. That a refresh
// token has expired is believed only when both clocks say so.
//
// However many requests wait, there is one refresh for a key. It belongs to none
// of them: a request whose context ends leaves with that context's error, and
// the refresh goes on for the rest. It is bounded by [Transport.RefreshTimeout].
//
// A refresh that failed for a while only (no connection, 408, 429, 5xx) is tried
// again within that time, ever more slowly and as Retry-After asks. After that
// the key is left alone, for a second first and for up to thirty later on, or
// for as long as Retry-After asks, an hour at most: requests use a token that is
// still good or fail with the same [RefreshError]. The session is over only when
// WalletKit itself says so, by an answer 400, 401 or 403 in its own form, or when
// the refresh token has expired. The page of a firewall ends nobody's session.
//
// # After a 401
//
// A 401 may be late news. If the session has another token by then, the request
// is sent again with that one; otherwise it waits for a refresh. It is sent
// again once, and only if its body can be: there is none, it has a GetBody, or
// it fitted into [Transport.MaxReplayBytes]. In all other cases the caller gets
// the 401 as it came. A request is never sent again as another user, and an
// endpoint that refuses even new tokens does not have every request rotate the
// session.
//
// # Stores and several processes
//
// The store is the truth. [MemoryStore] is for one process and forgets,
// [FuncStore] makes a store for one process out of two functions, and the modules
// filestore, redisstore and pgxstore below this one are stores that processes
// share.
//
// Refresh tokens are taken to work once, and sending one twice to end the
// session. So every refresh is sent from within [TokenStore.Update], which
// excludes all others of the same key, in whichever process they are. There the
// session is looked at again: if another process has refreshed it, it is adopted
// and nothing is sent. When the store cannot exclude, no refresh is sent.
//
// A new session that cannot be stored is used from memory and storing it is
// tried again. Call [Transport.Shutdown] before the program ends; it waits for
// what is under way and says what could not be stored. A program that logs in or
// out during a refresh wins: what [Save] and [Delete] did is not overwritten.
//
// # Many users
//
// One Transport serves any number of users. [WithKey] puts the key of a session
// into the context of a request, [Transport.Key] finds it in some other way, and a
// program with one user needs neither: its key is the empty string. The memory
// that a Transport takes does not grow with the keys that it has seen.
//
// [Transport.CaptureLogin] stores the sessions that logins answer with, and
// deletes them after a logout. It trusts the key: a server that forgets to set
// one would give everybody the session of whoever logged in last.
//
// # Watching it
//
// [Transport.OnEvent] hears of every refresh and of every session that is over,
// and of nothing while all is well. [LogEvents] writes that to a log, and the
// module otelwalletauth counts it.
//
// # What is promised and what is not
//
// No error, event or log line holds a token, and printing a [Session] by package
// fmt or slog shows none. Tokens go only to BaseURL, over plain http only if that
// is loopback or [Transport.AllowHTTP] is set, and a refresh follows no redirect.
// A panic in a store, a Refresher or OnEvent is an error of that call. What
// an event means and when it comes is part of the API; the texts of errors are
// not: use [errors.Is] and [errors.As].
//
// WalletKit does not document whether a refresh changes the refresh token or
// the session's id, or ends the old access token. Nothing here depends on it.
// An exclusion that a store loses halfway (a paused process, a broken
// connection) can still let two refreshes out; how each store guards against
// that its own documentation says. Tokens are in the program's memory in clear,
// and in a store unless it is given [NewSealedCodec].
//
// # Testing
//
// Package walletauthtest has a stand-in for the API, strict about what it is
// sent and able to fail on purpose, and a conformance suite for stores.
// [Transport.Clock] takes a clock that the test sets, and everything works in a
// [testing/synctest] bubble.
package walletauth
