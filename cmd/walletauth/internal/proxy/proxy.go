// Package proxy serves WalletKit's API on this machine, for one user: what it is
// sent goes on to the API with the token of a session.
//
// A web page that the user visits can send requests to loopback, other users of
// the machine can too, and a name of an attacker's may be made to resolve to
// 127.0.0.1. So a request has to name the proxy's own address as its host, must
// not come from a page, and must know a secret in its path that is new in every
// run. Nothing but the API can be reached, and nothing that logs in or out.
package proxy

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// Config says what is served and to whom it is told.
type Config struct {
	// API is the address of the API.
	API *url.URL
	// Transport sends the requests and adds the token. Required.
	Transport http.RoundTripper
	// Explain turns an error of Transport into the answer's status and a
	// sentence for the program that sent the request. Required.
	Explain func(error) (status int, sentence string)
	// Log, if non-nil, is called once for each request when it is done, also
	// for those that were refused. It may be called concurrently.
	Log func(Entry)
}

// Entry is a request in the log. It holds no token and no secret: the path is
// the API's, without the query.
type Entry struct {
	Method, Path string
	Status       int // 0 if the client left before there was an answer
	Bytes        int64
	Duration     time.Duration
	Refused      string // why the proxy refused the request, "" if it did not
}

// Proxy serves the API at one listener.
type Proxy struct {
	config  Config
	secret  string
	origin  string // what a client writes before the path
	hosts   map[string]bool
	forward *httputil.ReverseProxy
	server  *http.Server
}

// New returns a proxy for connections of l, which Listen has opened.
func New(config Config, l net.Listener) *Proxy {
	p := &Proxy{config: config, secret: strings.ToLower(rand.Text())}
	p.origin, p.hosts = addressOf(l.Addr())
	quiet := log.New(io.Discard, "", 0) // what net/http says of a request may quote the path
	p.forward = &httputil.ReverseProxy{
		Transport:      config.Transport,
		Rewrite:        p.rewrite,
		ModifyResponse: p.cleanResponse,
		ErrorHandler:   p.fail,
		ErrorLog:       quiet,
		FlushInterval:  -1, // a stream reaches its reader as it comes
	}
	p.server = &http.Server{Handler: p, ErrorLog: quiet, ReadHeaderTimeout: 10 * time.Second}
	return p
}

// addressOf returns how l is reached, and the values of Host that are right. For
// a socket they do not matter to a browser, which cannot reach it.
func addressOf(addr net.Addr) (origin string, hosts map[string]bool) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return "http://localhost", map[string]bool{"localhost": true}
	}
	return "http://" + tcp.String(), map[string]bool{
		tcp.String():                          true,
		fmt.Sprintf("localhost:%d", tcp.Port): true,
	}
}

// URL is the address that stands for the API's: it holds the secret.
func (p *Proxy) URL() string { return p.origin + "/" + p.secret }

// Serve serves connections of l until ctx ends, then gives requests under way
// the time of grace. Its errors are those of l.
func (p *Proxy) Serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	stop := context.AfterFunc(ctx, func() { p.close(grace) })
	defer stop()
	err := p.server.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (p *Proxy) close(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if p.server.Shutdown(ctx) != nil {
		_ = p.server.Close() // it only closes connections
	}
}

// ServeHTTP checks a request and passes it on.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	rec := &recorder{ResponseWriter: w}
	target, status, why := p.check(r)
	entry := Entry{Method: r.Method, Path: target.EscapedPath(), Refused: why}
	defer func() {
		entry.Status, entry.Bytes, entry.Duration = rec.status, rec.bytes, time.Since(began)
		if p.config.Log != nil {
			p.config.Log(entry)
		}
	}()
	if why != "" {
		answer(rec, status, why)
		return
	}
	r.URL = target
	p.forward.ServeHTTP(rec, r)
}

// check returns where in the API the request goes, or why it is refused. What is
// refused for its host or its origin learns nothing about the secret.
func (p *Proxy) check(r *http.Request) (target *url.URL, status int, why string) {
	none := &url.URL{}
	switch { // a client that takes this for a proxy of the network's names another host, too
	case !p.hosts[strings.ToLower(r.Host)]:
		return none, http.StatusForbidden, "the request is for another host: this is an address of WalletKit's API alone, to be used as it was printed"
	case p.fromPage(r):
		return none, http.StatusForbidden, "requests of web pages are not served"
	}
	rest, known := p.cutSecret(r.URL.EscapedPath())
	if !known {
		return none, http.StatusForbidden, "the address lacks the secret of this run: use the address as it was printed"
	}
	// Not url.Parse, which takes what follows two slashes for a host.
	decoded, err := url.PathUnescape(rest)
	if err != nil {
		return none, http.StatusForbidden, "the path is malformed"
	}
	target = &url.URL{Path: decoded, RawPath: rest, RawQuery: r.URL.RawQuery}
	return target, http.StatusForbidden, Refused(target)
}

// fromPage reports whether a browser sent the request on behalf of a page.
// Browsers send Sec-Fetch-Site always, and Origin with all that a page could do
// harm by. Some WebSocket clients that are no browsers send the origin of the
// address that they were given.
func (p *Proxy) fromPage(r *http.Request) bool {
	if r.Header.Get("Sec-Fetch-Site") != "" {
		return true
	}
	for _, origin := range r.Header.Values("Origin") {
		if host, ok := strings.CutPrefix(origin, "http://"); !ok || !p.hosts[strings.ToLower(host)] {
			return true
		}
	}
	return false
}

// cutSecret takes the secret from the front of an escaped path.
func (p *Proxy) cutSecret(escaped string) (rest string, ok bool) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(escaped, "/"), "/")
	if subtle.ConstantTimeCompare([]byte(first), []byte(p.secret)) != 1 {
		return "", false
	}
	return "/" + rest, true
}

// sessionPaths begin and end sessions. An answer to a login holds a refresh
// token, which is not for other programs, and a logout would leave the stored
// session behind.
var sessionPaths = []string{
	"/users/login-anonymously", "/users/verify-login", "/users/refresh-token", "/users/logout",
}

// Refused returns why a request for u is not sent on behalf of a program, ""
// if it is. The path is read as the most lenient server might read it: decoded
// twice, backslashes as slashes, parameters cut off.
func Refused(u *url.URL) string {
	lenient := u.Path
	if again, err := url.PathUnescape(lenient); err == nil {
		lenient = again
	}
	parts := strings.FieldsFunc(lenient, func(r rune) bool { return r == '/' || r == '\\' })
	for i := range parts {
		parts[i], _, _ = strings.Cut(strings.ToLower(parts[i]), ";")
		parts[i] = strings.TrimSpace(parts[i])
		if parts[i] == "." || parts[i] == ".." {
			return "a path with dots may lead out of the API"
		}
	}
	clean := "/" + strings.Join(parts, "/")
	for _, name := range sessionPaths {
		if strings.HasSuffix(clean, name) {
			return "logging in and out is for walletauth login and walletauth logout"
		}
	}
	return ""
}

// credentials are the headers by which a caller says who it is. The session
// says that here, and a header of the caller's own would win.
var credentials = []string{
	"Authorization", "Proxy-Authorization", "Cookie", "X-Api-Key",
	"X-Walletkit-Project-Id", "X-Walletkit-Token-Source",
}

// IsCredential reports whether a header with this name says who sends it.
func IsCredential(name string) bool {
	canonical := http.CanonicalHeaderKey(strings.TrimSpace(name))
	for _, credential := range credentials {
		if canonical == credential {
			return true
		}
	}
	return false
}

func (p *Proxy) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(p.config.API)
	for _, name := range credentials {
		r.Out.Header.Del(name)
	}
	// Both may hold the proxy's address, and the second its secret.
	r.Out.Header.Del("Origin")
	r.Out.Header.Del("Referer")
}

// cleanResponse keeps a client with the proxy when the API redirects within
// itself, and takes out what is between the API and a browser.
func (p *Proxy) cleanResponse(resp *http.Response) error {
	resp.Header.Del("Set-Cookie")
	for name := range resp.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			resp.Header.Del(name)
		}
	}
	location, err := resp.Location()
	if err != nil || !p.inAPI(location) {
		return nil
	}
	inside := strings.TrimPrefix(location.EscapedPath(), strings.TrimSuffix(p.config.API.EscapedPath(), "/"))
	if location.RawQuery != "" {
		inside += "?" + location.RawQuery
	}
	resp.Header.Set("Location", p.URL()+inside)
	return nil
}

func (p *Proxy) inAPI(u *url.URL) bool {
	base := strings.TrimSuffix(p.config.API.Path, "/")
	return u.Scheme == p.config.API.Scheme && strings.EqualFold(u.Host, p.config.API.Host) &&
		(u.Path == base || strings.HasPrefix(u.Path, base+"/"))
}

func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client has left
	}
	status, sentence := p.config.Explain(err)
	answer(w, status, sentence)
}

// answer writes an error in the API's own form.
func answer(w http.ResponseWriter, status int, sentence string) {
	body, err := json.Marshal(map[string]any{"code": "walletauth", "error": sentence})
	if err != nil {
		panic(err) // two strings
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client may have left
}

// recorder keeps status and size for the log.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status < 200 { // informational ones come before
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// Hijack is called for an answer 101, which is then written past the recorder.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(r.ResponseWriter).Hijack()
	if err == nil {
		r.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// Unwrap lets net/http flush and set deadlines.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
