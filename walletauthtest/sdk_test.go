package walletauthtest_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// sdk sends what walletkit-js 0.0.107 was seen to send: no token source, the
// bearer wherever it has one, and a form's Content-Type on a POST without a
// body.
type sdk struct {
	*client
	token string
}

func (s *sdk) post(endpoint, body string) reply {
	header := http.Header{
		"Accept":             {"application/json, text/plain, */*"},
		"X-Fern-Language":    {"JavaScript"},
		"X-Fern-SDK-Name":    {"walletkit-js"},
		"X-Fern-SDK-Version": {"0.0.107"},
		"User-Agent":         {"axios/0.27.2"},
	}
	if body == "" && endpoint[0] == 'P' {
		header["Content-Type"] = []string{"application/x-www-form-urlencoded"}
	}
	if s.token != "" {
		header["Authorization"] = []string{"Bearer " + s.token}
	}
	return s.send(endpoint, body, header)
}

// fields checks that a reply is what the SDK's parsers demand: status 200
// and these members, of these types, which %T names.
func (s *sdk) fields(r reply, want map[string]string) map[string]any {
	s.Helper()
	var got map[string]any
	if err := json.Unmarshal([]byte(r.body), &got); r.status != 200 || err != nil {
		s.Fatalf("%d %s: %v", r.status, r.body, err)
	}
	types := make(map[string]string)
	for name, value := range got {
		types[name] = fmt.Sprintf("%T", value)
	}
	if diff := cmp.Diff(want, types); diff != "" {
		s.Errorf("members (-want +got):\n%s", diff)
	}
	return got
}

// login adopts the session of a reply. The SDK reads the times as JavaScript
// does, to the millisecond.
func (s *sdk) login(r reply) *walletauth.Session {
	s.Helper()
	got := s.fields(r, map[string]string{
		"id": "string", "created_at": "string", "project_id": "string", "user_id": "string",
		"access_token": "string", "access_token_expires_at": "string",
		"refresh_token": "string", "refresh_token_expires_at": "string",
	})
	for _, name := range []string{"created_at", "access_token_expires_at", "refresh_token_expires_at"} {
		if _, err := time.Parse(time.RFC3339, got[name].(string)); err != nil {
			s.Errorf("%s: %v", name, err)
		}
	}
	session := s.session(r)
	s.token = session.AccessToken
	return session
}

func newSDK(t *testing.T) (*sdk, *walletauthtest.Server) {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	t.Cleanup(srv.Close)
	return &sdk{client: newClient(t, srv)}, srv
}

func TestVendorSDKFromLoginToLogout(t *testing.T) {
	s, srv := newSDK(t)
	session := s.login(s.post("POST /users/login-anonymously", ""))
	if r := s.post("GET /wallets", ""); r.body != "[]\n" {
		t.Errorf("no wallets: %s", r.body)
	}
	wallet := s.fields(s.post("POST /wallets", `{"network":"Base","name":"n","control_mode":"user","user_pin":"123456"}`),
		map[string]string{"id": "string", "created_at": "string", "network": "string", "name": "string", "owner_id": "string", "address": "string"})
	if wallet["network"] != "Base" || wallet["name"] != "n" || wallet["owner_id"] != session.UserID {
		t.Errorf("created %v", wallet)
	}
	s.wantStatus("get by id", s.post(fmt.Sprintf("GET /wallets/get-by-id?network=Base&id=%s", wallet["id"]), ""), 200)

	s.token = "" // the SDK's store has dropped it at its expiry
	next := s.login(s.post("POST /users/refresh-token", refreshBody(session)))
	s.login(s.post("POST /users/refresh-token", refreshBody(next))) // by the user's call, with the bearer
	s.fields(s.post("POST /users/passkey/begin-registration", ""), map[string]string{"publicKey": "map[string]interface {}"})
	s.wantStatus("finish", s.post("POST /users/passkey/finish-registration", `{"id":"credential"}`), 204)
	s.wantStatus("logout", s.post("POST /users/logout", ""), 204)
	want := walletauthtest.Stats{Requests: 9, Logins: 1, Refreshes: 2, Logouts: 1, NeedlessBearers: 1, Violations: 7}
	if diff := cmp.Diff(want, srv.Stats()); diff != "" {
		t.Errorf("Stats (-want +got):\n%s", diff)
	}
}

func TestVendorSDKLogsInInEveryWay(t *testing.T) {
	challenge := map[string]string{"id": "string", "code": "string", "expired": "bool", "completed": "bool"}
	options := map[string]string{"publicKey": "map[string]interface {}"}
	assertion := func(got map[string]any) string {
		data, _ := json.Marshal(map[string]any{
			"type": "webauthn.get", "challenge": got["publicKey"].(map[string]any)["challenge"], "origin": "https://example.com",
		})
		return fmt.Sprintf(`{"passkey_credential_assertion_response":{"id":"c","response":{"clientDataJSON":%q}}}`,
			base64.RawURLEncoding.EncodeToString(data))
	}
	byCode := func(got map[string]any) string { return fmt.Sprintf(`{"session_challenge_code":%q}`, got["code"]) }
	for _, row := range []struct {
		name, endpoint, body string
		answer               map[string]string
		proof                func(map[string]any) string
		user                 string // whoever it is, if empty
	}{
		{"e-mail", "POST /users/login-with-email", `{"email":"a@example.com"}`, map[string]string{"user_id": "string"}, func(got map[string]any) string {
			return fmt.Sprintf(`{"user_id":%q,"verification_code":%q}`, got["user_id"], walletauthtest.VerificationCode)
		}, "user-of-a@example.com"},
		{"wallet", "POST /users/login-with-wallet", `{"sign_in_wallet":"0xabc"}`, map[string]string{"user_id": "string", "nonce": "string"}, func(got map[string]any) string {
			return fmt.Sprintf(`{"siwe_message":%q,"signature":"0x1"}`, fmt.Sprintf("example.com wants you to sign in\n\nNonce: %s\nIssued At: now", got["nonce"]))
		}, "user-of-0xabc"},
		{"magic link", "POST /users/login-with-magic-link", `{"email":"a@example.com"}`, challenge, byCode, "user-of-a@example.com"},
		{"another device", "POST /users/create-session-challenge", "", challenge, byCode, ""},
		{"passkey", "POST /users/login-with-passkey", `{"email":"a@example.com"}`, options, assertion, "user-of-a@example.com"},
		{"passkey of whomever", "POST /users/login-with-passkey", `{}`, options, assertion, ""},
		{"discoverable passkey", "POST /users/login-with-discoverable-passkey", "", options, assertion, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, _ := newSDK(t)
			got := s.fields(s.post(row.endpoint, row.body), row.answer)
			if code, ok := got["code"].(string); ok {
				s.fields(s.post("GET /users/session-challenge?code="+code, ""), challenge)
			}
			session := s.login(s.post("POST /users/verify-login", row.proof(got)))
			if row.user != "" && session.UserID != row.user {
				t.Errorf("logged in as %q, want %q", session.UserID, row.user)
			}
			s.wantRefusal("the same proof again", s.post("POST /users/verify-login", row.proof(got)), 400, "no login was begun that this verifies: begin one for this user, by login-with-email for example; each verifies once")
			s.wantStatus("wallets", s.post("GET /wallets", ""), 200)
		})
	}
}

func TestWhatTheAPIToleratesIsServedAndNoted(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	c, s := newClient(t, srv), srv.Login("user-1")
	bare := http.Header{"Authorization": {"Bearer " + s.AccessToken}}
	c.wantStatus("no token source", c.send(walletauthtest.ListWallets, "", bare), 200)
	c.wantStatus("a refresh with a bearer", c.send(walletauthtest.RefreshToken, refreshBody(s), bare), 200)
	want := []string{
		"GET /wallets: X-WalletKit-Token-Source is missing: send one of walletkit, firebase or supabase",
		"POST /users/refresh-token: Authorization does not belong on a refresh: leave it out",
	}
	if diff := cmp.Diff(want, srv.Violations()); diff != "" {
		t.Errorf("Violations (-want +got):\n%s", diff)
	}
	if got := srv.Stats().NeedlessBearers; got != 1 {
		t.Errorf("%d needless bearers, want 1", got)
	}
}
