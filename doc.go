// Package walletauth keeps a WalletKit session alive under any HTTP client. It
// is an [http.RoundTripper] that adds the session's access token to requests,
// refreshes the session before the token expires or when the API answers 401, and
// stores the new session.
//
// Most programs need a [Transport], a [TokenStore] and [Save]:
//
//	store := &walletauth.MemoryStore{}
//	client := &http.Client{Transport: &walletauth.Transport{
//		Store:     store,
//		ProjectID: "my-project",
//		BaseURL:   walletauth.Mainnet,
//	}}
//	err := walletauth.Save(ctx, store, "", session) // the reply to a login
//
// The client is then used as before. Two errors need the user: [ErrNoSession],
// log in, and [ErrSessionExpired], log in again. A [StoreError] is a failure of
// the store, and every other error may pass if the call is repeated later.
//
// # Requests
//
// Only requests to the scheme, host and port of [Transport.BaseURL] and below its
// path get a token. Others pass through unchanged, redirects to other hosts
// included. A request to Mainnet through a Transport for Testnet, or the reverse,
// is refused. Headers that the caller set are kept. The endpoints that log users
// in get the project header but no token. While the token is fresh, a request
// waits for no lock and starts no goroutine.
//
// # Refreshing
//
// In the last fifth of the token's lifetime, at most a minute
// ([Transport.RefreshBefore]), requests go out at once and one refresh runs in
// the background. In the last tenth, at most ten seconds, requests wait for it,
// and use the old token if it fails. Expiry is judged by the server's clock, so a
// client with a wrong clock refreshes no more often than others.
//
// All requests of a key share one refresh. A request whose context ends leaves
// with that context's error; the refresh goes on for the others.
//
// Temporary failures (network, 408, 429, 5xx) are retried with exponential
// backoff, honoring Retry-After, until [Transport.RefreshTimeout] has passed. A
// request that has no valid token fails 5 seconds after the first failure, and
// later requests fail at once until the next attempt is allowed. When the
// endpoint fails for several users, all keys of a Transport share what was
// learned: only probes are sent until it answers again. The session is over only
// if WalletKit says so, by a 400, 401 or 403 in its own format; the error page of
// a firewall ends no session.
//
// # After a 401
//
// If the session has a newer token by then, the request is sent again with it;
// otherwise it waits for a refresh. It is sent again once, and only if its body
// can be sent again (see [Transport.MaxReplayBytes]). If the refresh fails for
// now, the caller gets the 401; if the session is over, the caller and every later
// request get [ErrSessionExpired] at once. So the error is the one sign that the
// user must log in.
//
// # Stores and several processes
//
// [MemoryStore] and [FuncStore] are for one process. The modules filestore,
// redisstore, pgxstore and sqlstore share sessions between processes. Refreshes
// are sent only inside [TokenStore.Update], which locks the key in all
// processes: if another process has refreshed the session by then, its session
// is used and nothing is sent. A new session that cannot be stored is used from
// memory and stored later; call [Transport.Shutdown] before the program ends.
// [SaveIfAbsent] moves sessions in from elsewhere.
//
// # Many users
//
// One Transport serves any number of users. [WithKey] puts the key of a session
// into a request's context. A key is an identifier: it appears in events and
// logs, so use a user ID, or the hash of a cookie, never a secret.
//
// # What is promised
//
// No error, event or log line holds a token, and printing a [Session] is safe.
// Tokens go only to BaseURL; refreshes follow no redirect. A panic in a store, a
// Refresher or OnEvent is an error of that call. Events are part of the API; the
// texts of errors are not, so use [errors.Is] and [errors.As].
//
// WalletKit does not document whether a refresh changes the refresh token or the
// session's ID; nothing here depends on it. Tokens are in memory in clear, and in
// a store too unless it uses [NewSealedCodec].
//
// # Testing
//
// Package walletauthtest has a strict stand-in for the API that can be told to
// fail, and a conformance suite for stores. [testing/synctest] works with all.
package walletauth
