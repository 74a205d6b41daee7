package walletauthtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"path"
	"reflect"
	"slices"
	"strings"
)

// UserHeader names a request header that the API does not know: the id of the
// user on whose behalf the test sends the request. If it arrives with the
// bearer of another user, the request is refused with 403, which is a violation
// and counted as Stats.WrongUser. It finds a client that mixes its users up.
const UserHeader = "Walletauthtest-User"

// The endpoints that the server knows, as WalletKit's API documents them, in the
// form that [Server.Fail] and [Server.Requests] take.
const (
	LoginAnonymously             = "POST /users/login-anonymously"
	LoginWithEmail               = "POST /users/login-with-email"
	LoginWithWallet              = "POST /users/login-with-wallet"
	LoginWithMagicLink           = "POST /users/login-with-magic-link"
	LoginWithPasskey             = "POST /users/login-with-passkey"
	LoginWithDiscoverablePasskey = "POST /users/login-with-discoverable-passkey"
	CreateSessionChallenge       = "POST /users/create-session-challenge"
	GetSessionChallenge          = "GET /users/session-challenge"
	VerifyLogin                  = "POST /users/verify-login"
	RefreshToken                 = "POST /users/refresh-token"
	Logout                       = "POST /users/logout"
	BeginPasskeyRegistration     = "POST /users/passkey/begin-registration"
	FinishPasskeyRegistration    = "POST /users/passkey/finish-registration"
	ListWallets                  = "GET /wallets"
	CreateWallet                 = "POST /wallets"
	GetWallet                    = "GET /wallets/get-by-id"
)

// An endpoint answers a request with a value to be written as JSON, nil for
// no content, or refuses it with a *refusal.
type endpoint struct {
	pattern string
	bearer  bool // takes a session's access token
	answer  func(*request) (any, error)
	custom  http.Handler // instead of answer
}

// A request has passed the checks of its headers.
type request struct {
	*http.Request
	session *login // nil at a public endpoint
}

func (s *Server) handleEndpoints() {
	for _, e := range []*endpoint{
		{pattern: LoginAnonymously, answer: s.loginAnonymously},
		{pattern: LoginWithEmail, answer: s.loginWithEmail},
		{pattern: LoginWithWallet, answer: s.loginWithWallet},
		{pattern: LoginWithMagicLink, answer: s.loginWithMagicLink},
		{pattern: LoginWithPasskey, answer: s.loginWithPasskey},
		{pattern: LoginWithDiscoverablePasskey, answer: s.loginWithDiscoverablePasskey},
		{pattern: CreateSessionChallenge, answer: s.createSessionChallenge},
		{pattern: GetSessionChallenge, answer: s.getSessionChallenge},
		{pattern: VerifyLogin, answer: s.verifyLogin},
		{pattern: RefreshToken, answer: s.refreshToken},
		{pattern: Logout, bearer: true, answer: s.logout},
		{pattern: BeginPasskeyRegistration, bearer: true, answer: s.beginPasskeyRegistration},
		{pattern: FinishPasskeyRegistration, bearer: true, answer: s.finishPasskeyRegistration},
		{pattern: ListWallets, bearer: true, answer: s.listWallets},
		{pattern: CreateWallet, bearer: true, answer: s.createWallet},
		{pattern: GetWallet, bearer: true, answer: s.getWallet},
	} {
		s.route(e)
	}
	s.mux.HandleFunc("/", s.notFound)
}

func (s *Server) serve(e *endpoint, w http.ResponseWriter, r *http.Request) {
	req, err := s.admit(e, r)
	if err != nil {
		s.refuse(e.pattern, w, err)
		return
	}
	if e.custom != nil {
		e.custom.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, req.session.userID)))
		return
	}
	reply, err := e.answer(req)
	switch {
	case err != nil:
		s.refuse(e.pattern, w, err)
	case reply == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		writeJSON(w, http.StatusOK, reply)
	}
}

// admit checks the headers that every request of e needs.
func (s *Server) admit(e *endpoint, r *http.Request) (*request, error) {
	for _, name := range []string{"Authorization", "X-WalletKit-Project-ID", "X-WalletKit-Token-Source"} {
		if len(r.Header.Values(name)) > 1 {
			return nil, breach(http.StatusBadRequest, name+" was sent twice: send it once")
		}
	}
	switch r.Header.Get("X-WalletKit-Project-ID") {
	case s.config.projectID():
	case "":
		return nil, breach(http.StatusBadRequest, fmt.Sprintf("X-WalletKit-Project-ID is missing: here it is %q", s.config.projectID()))
	default:
		return nil, breach(http.StatusForbidden, fmt.Sprintf("X-WalletKit-Project-ID names an unknown project: here it is %q (walletauthtest.Config.ProjectID)", s.config.projectID()))
	}
	if !e.bearer {
		s.admitPublic(e, r)
		return &request{Request: r}, nil
	}
	session, err := s.admitBearer(e, r)
	return &request{r, session}, err
}

// admitPublic looks at a bearer where none is needed. The API takes no notice
// of it, but next to a refresh token it is one secret too many on the wire.
func (s *Server) admitPublic(e *endpoint, r *http.Request) {
	if r.Header.Get("Authorization") == "" {
		return
	}
	s.counters.add(func(c *Stats) { c.NeedlessBearers++ })
	if e.pattern == RefreshToken {
		s.violate(e.pattern, "Authorization does not belong on a refresh: leave it out")
	}
}

var tokenSources = []string{"walletkit", "firebase", "supabase"}

func (s *Server) admitBearer(e *endpoint, r *http.Request) (*login, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return nil, asBreach(errUnauthorized, "Authorization has no bearer: send the word Bearer, a space and an access token")
	}
	switch source := r.Header.Get("X-WalletKit-Token-Source"); {
	case slices.Contains(tokenSources, source):
	case source == "": // the API does without, and so does its own SDK
		s.violate(e.pattern, "X-WalletKit-Token-Source is missing: send one of "+list(tokenSources))
	default:
		return nil, breach(http.StatusBadRequest, "X-WalletKit-Token-Source is not one of "+list(tokenSources))
	}
	session := s.sessions.bearer(token, s.now())
	if session == nil {
		return nil, errUnauthorized
	}
	return session, s.attribute(r, session)
}

// attribute counts a request for the user whose bearer it carries.
func (s *Server) attribute(r *http.Request, session *login) error {
	s.counters.user(session.userID, func(c *UserStats) { c.Requests++ })
	if meant := r.Header.Get(UserHeader); meant != "" && meant != session.userID {
		s.counters.add(func(c *Stats) { c.WrongUser++ })
		return breach(http.StatusForbidden, fmt.Sprintf("%s and the bearer belong to different users: the bearer is of %q", UserHeader, session.userID))
	}
	return nil
}

type userKey struct{}

// UserID returns the user whose bearer r carries, "" if r has not come
// through [Server.Handle].
func UserID(r *http.Request) string {
	id, _ := r.Context().Value(userKey{}).(string)
	return id
}

// refusal is WalletKit's ErrorResponse.
type refusal struct {
	status    int
	Code      *string `json:"code"` // always null: the codes are not documented
	Message   string  `json:"error"`
	violation string  // what a correct client never does; empty if it may
}

func (e *refusal) Error() string { return e.Message }

// errUnauthorized is the same for every reason, as the API's is.
var errUnauthorized = refuse(http.StatusUnauthorized, "No valid API key provided or invalid session token")

func refuse(status int, message string) *refusal { return &refusal{status: status, Message: message} }

// breach is a refusal that only a client with a mistake in it can earn.
func breach(status int, message string) *refusal { return asBreach(refuse(status, message), message) }

func asBreach(e *refusal, violation string) *refusal {
	return &refusal{status: e.status, Message: e.Message, violation: violation}
}

func (s *Server) refuse(pattern string, w http.ResponseWriter, err error) {
	var e *refusal
	if !errors.As(err, &e) {
		e = refuse(http.StatusInternalServerError, err.Error())
	}
	if e.status == http.StatusUnauthorized {
		s.counters.add(func(c *Stats) { c.Unauthorized++ })
	}
	if e.violation != "" {
		s.violate(pattern, e.violation)
	}
	writeJSON(w, e.status, e)
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	message := "no such endpoint: the paths are in the constants of walletauthtest, and Server.Handle adds more"
	clean := path.Clean("/" + r.URL.Path)
	if methods := s.methods(clean); len(methods) > 0 {
		message = fmt.Sprintf("no such endpoint: %s takes %s", clean, list(methods))
	}
	s.refuse(r.Method+" "+r.URL.Path, w, refuse(http.StatusNotFound, message))
}

// methods returns those that a path of the API takes, none if there is no such
// path.
func (s *Server) methods(path string) (methods []string) {
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		r := &http.Request{Method: method, URL: &url.URL{Path: path}}
		if _, pattern := s.mux.Handler(r); pattern != "/" {
			methods = append(methods, method)
		}
	}
	return methods
}

// list is "a, b or c".
func list(values []string) string {
	last := len(values) - 1
	if last < 1 {
		return strings.Join(values, "")
	}
	return strings.Join(values[:last], ", ") + " or " + values[last]
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // fails only if the client has gone
}

// decode reads the JSON object of a request into a struct, whose fields it names
// if it cannot. Errors quote nothing of the body.
func decode(r *request, into any) error {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return breach(http.StatusBadRequest, "Content-Type is not application/json")
	}
	body, err := io.ReadAll(r.Body)
	if err != nil || len(body) > maxBody {
		return breach(http.StatusBadRequest, fmt.Sprintf("the body is larger than %d bytes", maxBody))
	}
	err = json.Unmarshal(body, into)
	if wrongType, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrongType.Field != "" {
		return breach(http.StatusBadRequest, fmt.Sprintf("%s is not a JSON %s", wrongType.Field, jsonName(wrongType.Type)))
	}
	if err != nil {
		return breach(http.StatusBadRequest, "the body is not a JSON object"+members(into))
	}
	return nil
}

func jsonName(t reflect.Type) string {
	if t.Kind() == reflect.String {
		return "string"
	}
	return "object"
}

// members names what a struct takes.
func members(into any) string {
	t := reflect.TypeOf(into).Elem()
	if t.Kind() != reflect.Struct {
		return ""
	}
	var names []string
	for i := range t.NumField() {
		names = append(names, t.Field(i).Tag.Get("json"))
	}
	return " with " + strings.Join(names, ", ")
}

// require takes names and values in turn and refuses the first value that is
// empty.
func require(namesAndValues ...string) error {
	for i := 0; i < len(namesAndValues); i += 2 {
		if namesAndValues[i+1] == "" {
			return breach(http.StatusBadRequest, namesAndValues[i]+" is missing")
		}
	}
	return nil
}
