// Package api knows where WalletKit's API is, and what a request to one of its
// endpoints means for a session. Its errors are for the user of
// walletauth.Transport and name that type's fields.
package api

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"unicode"
)

// Paths of endpoints, below the base path.
const (
	RefreshPath = "/users/refresh-token"
	LogoutPath  = "/users/logout"
)

// Kind is what a request means for a session.
type Kind int

// The kinds of requests.
const (
	Outside     Kind = iota // not to the API, or led there by somebody else: gets no token
	WithSession             // takes the token
	Public                  // takes the project and no token
	Login                   // is public and answered with a session
	Logout                  // takes the token and ends the session
)

type endpoint struct{ method, path string }

// kinds are the kinds of all endpoints that are not WithSession.
var kinds = map[endpoint]Kind{
	{http.MethodPost, "/users/login-anonymously"}:               Login,
	{http.MethodPost, "/users/verify-login"}:                    Login,
	{http.MethodPost, RefreshPath}:                              Login,
	{http.MethodPost, "/users/login-with-email"}:                Public,
	{http.MethodPost, "/users/login-with-wallet"}:               Public,
	{http.MethodPost, "/users/login-with-magic-link"}:           Public,
	{http.MethodPost, "/users/login-with-passkey"}:              Public,
	{http.MethodPost, "/users/login-with-discoverable-passkey"}: Public,
	{http.MethodPost, "/users/create-session-challenge"}:        Public,
	{http.MethodGet, "/users/session-challenge"}:                Public,
	{http.MethodPost, LogoutPath}:                               Logout,
}

// Origin is the API at a base URL: the requests that may get a token.
type Origin struct {
	scheme, host string // host in lower case, with the port unless it is the scheme's own
	path         string // as escaped in a URL, without a slash at its end
	plainPath    string // the same unescaped
}

// Parse reads a BaseURL.
func Parse(base string, allowHTTP bool) (Origin, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil: // its text quotes the URL, which may hold a password
		return Origin{}, errors.New("walletauth: Transport.BaseURL is not a URL")
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "":
		return Origin{}, errors.New(`walletauth: Transport.BaseURL is not an absolute http or https URL, like "https://testnet.walletkit.com"`)
	case !isASCII(u.Hostname()):
		return Origin{}, errors.New("walletauth: Transport.BaseURL has a host name that is not ASCII: write it in punycode, like xn--e1afmkfd.example")
	case strings.Contains(u.Hostname(), "%"):
		return Origin{}, errors.New("walletauth: Transport.BaseURL has an IPv6 zone: use a name or another address")
	case u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return Origin{}, errors.New("walletauth: Transport.BaseURL has more than scheme, host and path: remove user, query and fragment")
	case u.Scheme == "http" && !allowHTTP && !loopback(u.Hostname()):
		return Origin{}, fmt.Errorf("walletauth: Transport.BaseURL would send tokens to %s over plain http: use https, or set AllowHTTP", u.Host)
	}
	o := Origin{
		scheme: u.Scheme, host: canonicalHost(u),
		path: strings.TrimRight(u.EscapedPath(), "/"), plainPath: strings.TrimRight(u.Path, "/"),
	}
	if o.path != "" && !o.coversPath(u) { // then no request could be under it
		return Origin{}, errors.New("walletauth: Transport.BaseURL has a path with empty or dot segments: remove them")
	}
	return o, nil
}

func loopback(host string) bool {
	host = lowerASCII(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761, section 6.3
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// canonicalHost is the host and port of u for comparison. Letters outside of
// ASCII stay as they are: strings.ToLower makes an ASCII i of U+0130, while
// net/http dials another host (RFC 3492), which must not count as the same.
func canonicalHost(u *url.URL) string {
	host, port := lowerASCII(u.Hostname()), u.Port()
	if port != "" && port != defaultPorts[u.Scheme] {
		return net.JoinHostPort(host, port)
	}
	if strings.Contains(host, ":") { // an IPv6 address
		return "[" + host + "]"
	}
	return host
}

func lowerASCII(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return s
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

// URL is the address of the endpoint at path p.
func (o Origin) URL(p string) string { return o.scheme + "://" + o.host + o.path + p }

// covers reports whether a request to u may get a token: same origin and under
// the base path. Only the URL counts, as it is what gets dialled; req.Host may
// say anything, as it does behind a reverse proxy.
func (o Origin) covers(u *url.URL) bool {
	if u == nil || u.Opaque != "" || u.Scheme != o.scheme && lowerASCII(u.Scheme) != o.scheme {
		return false
	}
	return (u.Host == o.host || canonicalHost(u) == o.host) && o.coversPath(u)
}

// ledAstray reports whether req follows redirects that did not all come from the
// API: a third party must not choose what a user's token does.
//
// A caller may have put the response of this very request into it. Then the chain
// is a circle, in which the second of two, half as fast, is met again.
func (o Origin) ledAstray(req *http.Request) bool {
	slow := req.Response
	for resp, n := req.Response, 1; resp != nil; n++ {
		if resp.Request == nil || !o.covers(resp.Request.URL) {
			return true
		}
		if n%2 == 0 {
			slow = slow.Request.Response
		}
		if resp = resp.Request.Response; resp == slow {
			return false
		}
	}
	return false
}

// coversPath refuses a path that leaves the base path by dot segments, for a
// server may resolve them.
func (o Origin) coversPath(u *url.URL) bool {
	if o.path == "" {
		return true
	}
	return under(u.EscapedPath(), o.path) && under(path.Clean(u.Path), o.plainPath)
}

func under(p, base string) bool {
	return p == base || strings.HasPrefix(p, base) && p[len(base)] == '/'
}

// Kind is the kind of req. A request that follows redirects which did not all
// come from the API is Outside: a third party must not choose what a user's token
// does.
func (o Origin) Kind(req *http.Request) Kind {
	if !o.covers(req.URL) || o.ledAstray(req) {
		return Outside
	}
	path := strings.TrimPrefix(req.URL.Path, o.plainPath)
	if !strings.HasPrefix(path, "/users/") { // which most requests are not for
		return WithSession
	}
	if kind, special := kinds[endpoint{Method(req), path}]; special {
		return kind
	}
	return WithSession
}

// Method is the method of req, as net/http reads it.
func Method(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet
	}
	return req.Method
}

// WrongNetwork returns an error if o is one of WalletKit's two networks and req is
// for the other without an Authorization of its own: a program that uses both has
// a Transport for each.
func (o Origin) WrongNetwork(req *http.Request) error {
	const testnet, mainnet = "testnet.walletkit.com", "mainnet.walletkit.com"
	if req.URL == nil {
		return nil
	}
	to := lowerASCII(req.URL.Hostname())
	if (o.host != testnet || to != mainnet) && (o.host != mainnet || to != testnet) {
		return nil
	}
	if _, caller := CopyHeader(req.Header); caller.Authorization {
		return nil
	}
	return fmt.Errorf("walletauth: a request to %s through a Transport for %s mixes up testnet and mainnet: change BaseURL or the request", to, o.host)
}
