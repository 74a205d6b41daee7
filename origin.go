package walletauth

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

// The addresses of WalletKit's API, from its documentation, for
// [Transport.BaseURL].
const (
	Testnet = "https://testnet.walletkit.com" // test networks; the default
	Mainnet = "https://mainnet.walletkit.com" // real assets
)

const refreshPath = "/users/refresh-token"

// publicEndpoints take the project header and no token.
var publicEndpoints = map[string]string{ // path to method
	"/users/login-anonymously":               http.MethodPost,
	"/users/verify-login":                    http.MethodPost,
	refreshPath:                              http.MethodPost,
	"/users/login-with-email":                http.MethodPost,
	"/users/login-with-wallet":               http.MethodPost,
	"/users/login-with-magic-link":           http.MethodPost,
	"/users/login-with-passkey":              http.MethodPost,
	"/users/login-with-discoverable-passkey": http.MethodPost,
	"/users/create-session-challenge":        http.MethodPost,
	"/users/session-challenge":               http.MethodGet,
}

// loginEndpoints are the public ones that answer with a Session.
var loginEndpoints = map[string]bool{
	"/users/login-anonymously": true,
	"/users/verify-login":      true,
	refreshPath:                true,
}

const logoutPath = "/users/logout"

// origin is the API as BaseURL says: the requests that may get a token.
type origin struct {
	scheme, host string // host in lower case, with the port unless it is the scheme's own
	path         string // as escaped in a URL, without a slash at its end
	plainPath    string // the same unescaped
}

// parseOrigin reads a BaseURL.
func parseOrigin(base string, allowHTTP bool) (origin, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil: // its text quotes the URL, which may hold a password
		return origin{}, errors.New("walletauth: Transport.BaseURL is not a URL")
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "":
		return origin{}, errors.New(`walletauth: Transport.BaseURL is not an absolute http or https URL, like "https://testnet.walletkit.com"`)
	case !isASCII(u.Hostname()):
		return origin{}, errors.New("walletauth: Transport.BaseURL has a host name that is not ASCII: write it in punycode, as xn--...")
	case strings.Contains(u.Hostname(), "%"):
		return origin{}, errors.New("walletauth: Transport.BaseURL has an IPv6 zone: use a name or another address")
	case u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return origin{}, errors.New("walletauth: Transport.BaseURL has more than scheme, host and path: remove user, query and fragment")
	case u.Scheme == "http" && !allowHTTP && !loopback(u.Hostname()):
		return origin{}, fmt.Errorf("walletauth: Transport.BaseURL would send tokens to %s over plain http: use https, or set AllowHTTP", u.Host)
	}
	o := origin{
		scheme: u.Scheme, host: canonicalHost(u),
		path: strings.TrimRight(u.EscapedPath(), "/"), plainPath: strings.TrimRight(u.Path, "/"),
	}
	if o.path != "" && !o.coversPath(u) { // then no request could be under it
		return origin{}, errors.New("walletauth: Transport.BaseURL has a path with empty or dot segments: remove them")
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

func (o origin) url(p string) string { return o.scheme + "://" + o.host + o.path + p }

// covers reports whether a request to u may get a token: same origin and under
// the base path. Only the URL counts, as it is what gets dialled; req.Host may
// say anything, as it does behind a reverse proxy.
func (o origin) covers(u *url.URL) bool {
	if u == nil || u.Opaque != "" || u.Scheme != o.scheme && lowerASCII(u.Scheme) != o.scheme {
		return false
	}
	return (u.Host == o.host || canonicalHost(u) == o.host) && o.coversPath(u)
}

// ledAstray reports whether req follows redirects that did not all come from the
// API: a third party must not choose what a user's token does.
func (o origin) ledAstray(req *http.Request) bool {
	for resp := req.Response; resp != nil; resp = resp.Request.Response {
		if resp.Request == nil || !o.covers(resp.Request.URL) {
			return true
		}
	}
	return false
}

// coversPath refuses a path that leaves the base path by dot segments, for a
// server may resolve them.
func (o origin) coversPath(u *url.URL) bool {
	if o.path == "" {
		return true
	}
	return under(u.EscapedPath(), o.path) && under(path.Clean(u.Path), o.plainPath)
}

func under(p, base string) bool {
	return p == base || strings.HasPrefix(p, base) && p[len(base)] == '/'
}

// relative is the path of u below the base path, unescaped as a server sees it.
func (o origin) relative(u *url.URL) string {
	return strings.TrimPrefix(u.Path, o.plainPath)
}

// isPublic reports whether a request that o covers is to an endpoint that
// takes no token.
func (o origin) isPublic(req *http.Request) bool {
	p := o.relative(req.URL)
	return strings.HasPrefix(p, "/users/") && publicEndpoints[p] == method(req)
}

func (o origin) isLogin(req *http.Request) bool {
	return loginEndpoints[o.relative(req.URL)] && method(req) == http.MethodPost
}

func (o origin) isLogout(req *http.Request) bool {
	return o.relative(req.URL) == logoutPath && method(req) == http.MethodPost
}

func method(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet // as net/http reads it
	}
	return req.Method
}

// wrongNetwork returns an error if o is one of WalletKit's two networks and u is
// the other: a program that uses both has a Transport for each.
func (o origin) wrongNetwork(u *url.URL) error {
	const testnet, mainnet = "testnet.walletkit.com", "mainnet.walletkit.com"
	if u == nil {
		return nil
	}
	to := lowerASCII(u.Hostname())
	if (o.host == testnet && to == mainnet) || (o.host == mainnet && to == testnet) {
		return fmt.Errorf("walletauth: a request to %s through a Transport for %s mixes up testnet and mainnet: change BaseURL or the request", to, o.host)
	}
	return nil
}
