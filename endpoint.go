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

// endpoint is the API as BaseURL says: the requests that may get a token.
type endpoint struct {
	scheme, host string // host in lower case, with the port unless it is the scheme's own
	path         string // as escaped in a URL, without a slash at its end
	plainPath    string // the same unescaped
}

// parseEndpoint reads a BaseURL.
func parseEndpoint(base string, allowHTTP bool) (endpoint, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil: // its text quotes the URL, which may hold a password
		return endpoint{}, errors.New("walletauth: Transport.BaseURL is not a URL")
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "":
		return endpoint{}, errors.New(`walletauth: Transport.BaseURL is not an absolute http or https URL, like "https://testnet.walletkit.com"`)
	case strings.Contains(u.Hostname(), "%"):
		return endpoint{}, errors.New("walletauth: Transport.BaseURL has an IPv6 zone: use a name or another address")
	case u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return endpoint{}, errors.New("walletauth: Transport.BaseURL has more than scheme, host and path: remove user, query and fragment")
	case u.Scheme == "http" && !allowHTTP && !loopback(u.Hostname()):
		return endpoint{}, fmt.Errorf("walletauth: Transport.BaseURL would send tokens to %s over plain http: use https, or set AllowHTTP", u.Host)
	}
	e := endpoint{
		scheme: u.Scheme, host: canonicalHost(u),
		path: strings.TrimRight(u.EscapedPath(), "/"), plainPath: strings.TrimRight(u.Path, "/"),
	}
	if e.path != "" && !e.coversPath(u) { // then no request could be under it
		return endpoint{}, errors.New("walletauth: Transport.BaseURL has a path with empty or dot segments: remove them")
	}
	return e, nil
}

func loopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761, section 6.3
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func canonicalHost(u *url.URL) string {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	if port != "" && port != defaultPorts[u.Scheme] {
		return net.JoinHostPort(host, port)
	}
	if strings.Contains(host, ":") { // an IPv6 address
		return "[" + host + "]"
	}
	return host
}

var defaultPorts = map[string]string{"http": "80", "https": "443"}

func (e endpoint) url(p string) string { return e.scheme + "://" + e.host + e.path + p }

// covers reports whether a request to u may get a token: same origin and under
// the base path. Only the URL counts, as it is what gets dialled; req.Host may
// say anything, as it does behind a reverse proxy.
func (e endpoint) covers(u *url.URL) bool {
	if u == nil || u.Opaque != "" || !strings.EqualFold(u.Scheme, e.scheme) {
		return false
	}
	return (u.Host == e.host || canonicalHost(u) == e.host) && e.coversPath(u)
}

// coversPath refuses a path that leaves the base path by dot segments, for a
// server may resolve them.
func (e endpoint) coversPath(u *url.URL) bool {
	if e.path == "" {
		return true
	}
	return under(u.EscapedPath(), e.path) && under(path.Clean(u.Path), e.plainPath)
}

func under(p, base string) bool {
	return p == base || strings.HasPrefix(p, base) && p[len(base)] == '/'
}

// relative is the path of u below the base path, unescaped as a server sees it.
func (e endpoint) relative(u *url.URL) string {
	return strings.TrimPrefix(u.Path, e.plainPath)
}

// isPublic reports whether a request that e covers is to an endpoint that
// takes no token.
func (e endpoint) isPublic(req *http.Request) bool {
	p := e.relative(req.URL)
	return strings.HasPrefix(p, "/users/") && publicEndpoints[p] == method(req)
}

func (e endpoint) isLogin(req *http.Request) bool {
	return loginEndpoints[e.relative(req.URL)] && method(req) == http.MethodPost
}

func (e endpoint) isLogout(req *http.Request) bool {
	return e.relative(req.URL) == logoutPath && method(req) == http.MethodPost
}

func method(req *http.Request) string {
	if req.Method == "" {
		return http.MethodGet // as net/http reads it
	}
	return req.Method
}

// mixup returns an error if e is one of WalletKit's two networks and u is the
// other: a program that means both has a Transport for each.
func (e endpoint) mixup(u *url.URL) error {
	const testnet, mainnet = "testnet.walletkit.com", "mainnet.walletkit.com"
	if u == nil {
		return nil
	}
	to := strings.ToLower(u.Hostname())
	if (e.host == testnet && to == mainnet) || (e.host == mainnet && to == testnet) {
		return fmt.Errorf("walletauth: a request to %s through a Transport for %s mixes up testnet and mainnet: change BaseURL or the request", to, e.host)
	}
	return nil
}
