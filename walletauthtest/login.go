package walletauthtest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync"

	"github.com/walletauth/walletauth"
)

// VerificationCode is the code in every mail that the server would send:
// POST /users/verify-login takes it once for each login-with-email.
const VerificationCode = "123456"

// challenges are the logins that were begun and wait for /users/verify-login,
// by what the client has to come back with. Each is good for one login.
type challenges struct {
	mu      sync.Mutex // guards waiting
	waiting map[string]string
}

func (c *challenges) add(proof, userID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = make(map[string]string)
	}
	c.waiting[proof] = userID
}

func (c *challenges) take(proof string) (userID string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	userID, ok = c.waiting[proof]
	delete(c.waiting, proof)
	return userID, ok
}

func (c *challenges) has(proof string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.waiting[proof]
	return ok
}

// The proofs, by the way of logging in. The prefixes keep one way's proof from
// serving another.
func emailProof(userID string) string      { return "email " + userID }
func walletProof(nonce string) string      { return "wallet " + nonce }
func codeProof(code string) string         { return "code " + code }
func passkeyProof(challenge string) string { return "passkey " + challenge }

// loggedIn is s.Login for a request, which counts.
func (s *Server) loggedIn(userID string) (*walletauth.Session, error) {
	s.counters.add(func(c *Stats) { c.Logins++ })
	return s.Login(userID), nil
}

func newUser() string { return "user-" + rand.Text() }

// userOf is the id of the user who logs in by an e-mail address or a wallet. It
// differs from both, as the API's ids do, so that a client which confuses them
// is found out.
func userOf(name string) string { return "user-of-" + name }

func (s *Server) loginAnonymously(*request) (any, error) { return s.loggedIn(newUser()) }

func (s *Server) loginWithEmail(r *request) (any, error) {
	email, err := decodeEmail(r)
	if err != nil {
		return nil, err
	}
	userID := userOf(email)
	s.challenges.add(emailProof(userID), userID)
	return map[string]string{"user_id": userID}, nil
}

func decodeEmail(r *request) (string, error) {
	var in struct {
		Email string `json:"email"`
	}
	if err := decode(r, &in); err != nil {
		return "", err
	}
	return in.Email, require("email", in.Email)
}

func (s *Server) loginWithWallet(r *request) (any, error) {
	var in struct {
		SignInWallet string `json:"sign_in_wallet"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if err := require("sign_in_wallet", in.SignInWallet); err != nil {
		return nil, err
	}
	nonce := rand.Text()
	userID := userOf(in.SignInWallet)
	s.challenges.add(walletProof(nonce), userID)
	return map[string]string{"user_id": userID, "nonce": nonce}, nil
}

// sessionChallenge is completed from the start, as if the user had already
// followed the link in the mail, or confirmed the login on another device.
type sessionChallenge struct {
	ID        string `json:"id"`
	Code      string `json:"code"`
	Expired   bool   `json:"expired"`
	Completed bool   `json:"completed"`
}

func (s *Server) challenge(userID string) (any, error) {
	code := rand.Text()
	s.challenges.add(codeProof(code), userID)
	return sessionChallenge{ID: "challenge-" + code, Code: code, Completed: true}, nil
}

func (s *Server) loginWithMagicLink(r *request) (any, error) {
	email, err := decodeEmail(r)
	if err != nil {
		return nil, err
	}
	return s.challenge(userOf(email))
}

func (s *Server) createSessionChallenge(*request) (any, error) { return s.challenge(newUser()) }

func (s *Server) getSessionChallenge(r *request) (any, error) {
	code := r.URL.Query().Get("code")
	if err := require("code", code); err != nil {
		return nil, err
	}
	if !s.challenges.has(codeProof(code)) {
		return nil, refuse(http.StatusNotFound, "no such session challenge: code is what login-with-magic-link or create-session-challenge answered, until verify-login has used it")
	}
	return sessionChallenge{ID: "challenge-" + code, Code: code, Completed: true}, nil
}

// passkeyOptions is the part of a browser's PublicKeyCredentialRequestOptions
// that matters here.
type passkeyOptions struct {
	PublicKey struct {
		Challenge string `json:"challenge"`
	} `json:"publicKey"`
}

func (s *Server) passkey(userID string) (any, error) {
	var options passkeyOptions
	options.PublicKey.Challenge = base64.RawURLEncoding.EncodeToString([]byte(rand.Text()))
	s.challenges.add(passkeyProof(options.PublicKey.Challenge), userID)
	return options, nil
}

func (s *Server) loginWithPasskey(r *request) (any, error) {
	var in struct {
		Email        string `json:"email"`
		SignInWallet string `json:"sign_in_wallet"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	for _, name := range []string{in.Email, in.SignInWallet} {
		if name != "" {
			return s.passkey(userOf(name))
		}
	}
	return s.passkey(newUser())
}

func (s *Server) loginWithDiscoverablePasskey(*request) (any, error) { return s.passkey(newUser()) }

func (s *Server) beginPasskeyRegistration(r *request) (any, error) {
	return s.passkey(r.session.userID)
}

func (s *Server) finishPasskeyRegistration(r *request) (any, error) {
	var in json.RawMessage
	return nil, decode(r, &in)
}

func (s *Server) verifyLogin(r *request) (any, error) {
	var in proofOfLogin
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	proof, err := in.proof()
	if err != nil {
		return nil, err
	}
	userID, ok := s.challenges.take(proof)
	if !ok {
		return nil, refuse(http.StatusBadRequest, "no login was begun that this verifies: begin one for this user, by login-with-email for example; each verifies once")
	}
	return s.loggedIn(userID)
}

type proofOfLogin struct {
	UserID               string `json:"user_id"`
	VerificationCode     string `json:"verification_code"`
	SIWEMessage          string `json:"siwe_message"`
	Signature            string `json:"signature"`
	SessionChallengeCode string `json:"session_challenge_code"`
	Passkey              *struct {
		Response struct {
			ClientDataJSON string `json:"clientDataJSON"`
		} `json:"response"`
	} `json:"passkey_credential_assertion_response"`
}

// proof is the challenge that the client answers. Signatures are not checked:
// that would take the elliptic curves of wallets and browsers, and no test of
// sessions would gain by it.
func (p *proofOfLogin) proof() (string, error) {
	switch {
	case p.VerificationCode != "":
		if p.VerificationCode != VerificationCode {
			return "", refuse(http.StatusBadRequest, "the verification code is wrong: it is always "+VerificationCode)
		}
		return emailProof(p.UserID), require("user_id", p.UserID)
	case p.SIWEMessage != "":
		return walletProof(siweNonce(p.SIWEMessage)), require("signature", p.Signature)
	case p.SessionChallengeCode != "":
		return codeProof(p.SessionChallengeCode), nil
	case p.Passkey != nil:
		return passkeyProof(passkeyChallenge(p.Passkey.Response.ClientDataJSON)), nil
	}
	return "", breach(http.StatusBadRequest, "none of verification_code, siwe_message, session_challenge_code and passkey_credential_assertion_response is there")
}

// siweNonce reads the field Nonce of a message as in ERC-4361.
func siweNonce(message string) string {
	for line := range strings.Lines(message) {
		if nonce, ok := strings.CutPrefix(line, "Nonce: "); ok {
			return strings.TrimSpace(nonce)
		}
	}
	return ""
}

// passkeyChallenge reads the member challenge of a CollectedClientData as in
// Web Authentication, section 5.8.1.
func passkeyChallenge(clientData string) string {
	var in struct {
		Challenge string `json:"challenge"`
	}
	data, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(clientData, "="))
	if err != nil || json.Unmarshal(data, &in) != nil {
		return ""
	}
	return in.Challenge
}
