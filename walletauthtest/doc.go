// Package walletauthtest is for testing programs that call WalletKit, and the
// stores that keep its sessions.
//
// [NewServer] starts a stand-in for WalletKit's API on a loopback socket, in
// the manner of [net/http/httptest]:
//
//	srv := walletauthtest.NewServer(walletauthtest.Config{TB: t})
//	defer srv.Close()
//	session := srv.Login("user-1")
//
// In a [testing/synctest] bubble, where sockets do not work, use
// [NewUnstartedServer] and [Server.RoundTripper]: requests are then handled
// in memory, and the server's time is the bubble's.
//
// [TestStore] checks that a [walletauth.TokenStore] keeps its contract, with
// [Corrupter] also where a stored session cannot be read, and [TestProcesses]
// that it does so between processes.
//
// # What the server does
//
// It knows the endpoints that matter to sessions: every way to log in, refresh
// and log out, passkeys, and listing and creating wallets. A program that
// needs another endpoint adds it with [Server.Handle].
//
// It is stricter than the API may be. Where WalletKit leaves something
// undocumented the server assumes what breaks a careless client: a refresh
// token works once, and one that comes back a second time ends the session.
// [Config] has a switch for each such assumption, and [Config.ReuseGrace] for a
// server that forgives a repeated refresh token for a while. The time of login,
// created_at, and the id of a session stay the same through refreshes.
//
// Every request needs the header X-WalletKit-Project-ID, and one on behalf of
// a session also Authorization and X-WalletKit-Token-Source; a refresh carries
// no Authorization. Two habits of walletkit-js that the API puts up with are
// served and noted as violations: it leaves the token source out, and sends its
// bearer with a refresh.
//
// Who logs in as a@example.com, or with the wallet 0xabc, is the user
// "user-of-a@example.com" or "user-of-0xabc". The code that the mail would hold
// is [VerificationCode], the link in it counts as followed, and signatures
// are taken on trust.
//
// What the server refuses, it refuses with WalletKit's ErrorResponse, the JSON
// object {"code": null, "error": "..."}, whose text says what would have been
// right, allowed values included. Only a 401 says what the API's says, for any
// reason; the violation that goes with it tells more. No error says a token.
//
// Pages in a browser may call it if their origin is in [Config.CORS].
//
// # Failing on purpose
//
// A [Fault] makes the next requests late, fail or vanish, before they had an
// effect or after it. The server counts what it saw ([Server.Stats]) and keeps
// a list of what a correct client never does ([Server.Violations]). With
// [Config.TB] such a violation fails the test.
package walletauthtest
