package walletauth_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// world is a base transport for every host: it answers 200, or a redirect
// where one is set, and remembers which URLs were asked with which header.
type world struct {
	redirect map[string]string // from URL to URL
	status   int               // of redirects

	mu    sync.Mutex // guards asked
	asked []visit
}

type visit struct {
	url    string
	header http.Header
}

func (w *world) RoundTrip(req *http.Request) (*http.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, visit{req.URL.String(), req.Header.Clone()})
	if to := w.redirect[req.URL.String()]; to != "" {
		resp := reply(req, w.status, "")
		resp.Header.Set("Location", to)
		return resp, nil
	}
	return reply(req, 200, "[]"), nil
}

// withToken are the URLs that were asked with any header of ours, in order.
func (w *world) withToken() (urls []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.asked {
		if strings.HasPrefix(v.header.Get("Authorization"), "Bearer ") || v.header["X-Walletkit-Project-Id"] != nil || v.header["X-Walletkit-Token-Source"] != nil {
			urls = append(urls, v.url)
		}
	}
	return urls
}

// clientOf has a session for base and w as its world.
func clientOf(t *testing.T, base string, w *world) *http.Client {
	t.Helper()
	srv := walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t})
	store := &walletauth.MemoryStore{}
	if err := walletauth.Save(t.Context(), store, "", srv.Login("user-1")); err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: base, Base: w}}
}

func TestTokenGoesOnlyToTheAPI(t *testing.T) {
	for name, test := range map[string]struct {
		base, url string
		token     bool
	}{
		"a path of the API":                  {"https://api.example", "https://api.example/wallets", true},
		"its root":                           {"https://api.example", "https://api.example", true},
		"its root with a slash":              {"https://api.example/", "https://api.example/", true},
		"with a query":                       {"https://api.example", "https://api.example/wallets?a=https://b", true},
		"the host in another case":           {"https://API.example", "https://aPi.EXAMPLE/wallets", true},
		"the scheme's port said":             {"https://api.example", "https://api.example:443/wallets", true},
		"the scheme's port said in BaseURL":  {"https://api.example:443", "https://api.example/wallets", true},
		"an empty port":                      {"https://api.example", "https://api.example:/wallets", true},
		"another host":                       {"https://api.example", "https://other.example/wallets", false},
		"a host below":                       {"https://api.example", "https://x.api.example/wallets", false},
		"a host that begins alike":           {"https://api.example", "https://api.example.evil.example/wallets", false},
		"another port":                       {"https://api.example", "https://api.example:8443/wallets", false},
		"the other scheme's port":            {"https://api.example", "https://api.example:80/wallets", false},
		"plain http":                         {"https://api.example", "http://api.example/wallets", false},
		"plain http to the secure port":      {"https://api.example", "http://api.example:443/wallets", false},
		"https where the API is plain":       {"http://127.0.0.1:80", "https://127.0.0.1:80/wallets", false},
		"the host as a user's name":          {"https://api.example", "https://api.example@evil.example/wallets", false},
		"the host as a user's name and port": {"https://api.example", "https://api.example:443@evil.example/wallets", false},
		"IPv6":                               {"https://[2001:DB8::1]", "https://[2001:db8::1]:443/wallets", true},
		"IPv6 with another port":             {"https://[2001:db8::1]", "https://[2001:db8::1]:1/wallets", false},
		"under the base path":                {"https://api.example/v1", "https://api.example/v1/wallets", true},
		"the base path itself":               {"https://api.example/v1/", "https://api.example/v1", true},
		"an escaped base path":               {"https://api.example/a%2Fb", "https://api.example/a%2Fb/wallets", true},
		"an escaped base path unescaped":     {"https://api.example/a%2Fb", "https://api.example/a/b/wallets", false},
		"outside of the base path":           {"https://api.example/v1", "https://api.example/wallets", false},
		"a path that begins like the base":   {"https://api.example/v1", "https://api.example/v12/wallets", false},
		"the base path in another case":      {"https://api.example/v1", "https://api.example/V1/wallets", false},
		"out of the base path by dots":       {"https://api.example/v1", "https://api.example/v1/../other", false},
		"by dots in the middle":              {"https://api.example/v1", "https://api.example/v1/a/../../other", false},
		"by escaped dots":                    {"https://api.example/v1", "https://api.example/v1/%2e%2E/other", false},
		"by dots and escaped slashes":        {"https://api.example/v1", "https://api.example/v1/..%2fother", false},
		"by dots after an escaped slash":     {"https://api.example/v1", "https://api.example/v1/a%2f..%2f..%2fother", false},
		"by dots at the end":                 {"https://api.example/v1", "https://api.example/v1/..", false},
		"dots that stay inside":              {"https://api.example/v1", "https://api.example/v1/a/../wallets", true},
		"dots without a base path":           {"https://api.example", "https://api.example/../wallets", true},
		"WalletKit's testnet":                {walletauth.Testnet, walletauth.Testnet + "/wallets", true},
		"WalletKit's mainnet":                {walletauth.Mainnet, walletauth.Mainnet + "/wallets", true},
		"neither, by testnet's Transport":    {walletauth.Testnet, "https://other.example/wallets", false},
		"neither, by mainnet's Transport":    {walletauth.Mainnet, "https://other.example/wallets", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{}
			req, err := http.NewRequestWithContext(t.Context(), "GET", test.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := clientOf(t, test.base, w).Transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			drain(t, resp)
			if got := len(w.withToken()) == 1; got != test.token {
				t.Errorf("token sent: %t, want %t", got, test.token)
			}
		})
	}
}

func TestHostHeaderDoesNotDecideWhoGetsTheToken(t *testing.T) {
	w := &world{}
	client := clientOf(t, "https://api.example", w)
	spoofed, err := http.NewRequestWithContext(t.Context(), "GET", "https://evil.example/wallets", nil)
	if err != nil {
		t.Fatal(err)
	}
	spoofed.Host = "api.example"
	behindProxy := spoofed.Clone(t.Context())
	behindProxy.URL.Host, behindProxy.Host = "api.example", "inside.example"
	for _, req := range []*http.Request{spoofed, behindProxy} {
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		drain(t, resp)
	}
	if diff := cmp.Diff([]string{"https://api.example/wallets"}, w.withToken()); diff != "" {
		t.Errorf("URLs that got the token (-want +got):\n%s", diff)
	}
}

func TestOpaqueURLGetsNoToken(t *testing.T) {
	w := &world{}
	client := clientOf(t, "https://api.example", w)
	req := &http.Request{Method: "GET", URL: &url.URL{Scheme: "https", Host: "api.example", Opaque: "//evil.example/wallets"}}
	resp, err := client.Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if drain(t, resp); len(w.withToken()) > 0 {
		t.Errorf("the token went to %v", w.withToken())
	}
}

func TestRequestWithoutURLIsLeftToTheBase(t *testing.T) {
	body := newCountedBody("body")
	transport := &walletauth.Transport{Store: &walletauth.MemoryStore{}}
	if _, err := transport.RoundTrip(&http.Request{Method: "POST", Body: body}); err == nil {
		t.Error("no error")
	}
	body.wantClosed(t)
}

func TestTokenDoesNotFollowARedirectOut(t *testing.T) {
	const from = "https://api.example/v1/wallets"
	for name, to := range map[string]string{
		"to another host":              "https://evil.example/v1/wallets",
		"to a host below":              "https://x.api.example/v1/wallets",
		"to another port":              "https://api.example:8443/v1/wallets",
		"to plain http":                "http://api.example/v1/wallets",
		"out of the base path":         "https://api.example/v2/wallets",
		"out of the base path by dots": "https://api.example/v1/%2e%2e/v2/wallets",
		"to the host as a user's name": "https://api.example@evil.example/v1/wallets",
	} {
		for _, status := range []int{301, 302, 303, 307, 308} {
			t.Run(name+" by "+http.StatusText(status), func(t *testing.T) {
				w := &world{redirect: map[string]string{from: to}, status: status}
				req, err := http.NewRequestWithContext(t.Context(), "POST", from, strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				resp, err := clientOf(t, "https://api.example/v1", w).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				drain(t, resp)
				if len(w.asked) != 2 {
					t.Fatalf("%d requests, want that the client followed", len(w.asked))
				}
				if diff := cmp.Diff([]string{from}, w.withToken()); diff != "" {
					t.Errorf("URLs that got the token (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestTokenFollowsARedirectInside(t *testing.T) {
	const from, to = "https://api.example/old", "https://api.example/new"
	w := &world{redirect: map[string]string{from: to}, status: 302}
	resp, err := clientOf(t, "https://api.example", w).Get(from)
	if err != nil {
		t.Fatal(err)
	}
	drain(t, resp)
	if diff := cmp.Diff([]string{from, to}, w.withToken()); diff != "" {
		t.Errorf("URLs that got the token (-want +got):\n%s", diff)
	}
}

func TestRedirectBackGetsNoToken(t *testing.T) {
	const start, out, back = "https://api.example/a", "https://other.example/b", "https://api.example/c"
	w := &world{redirect: map[string]string{start: out, out: back}, status: 302}
	resp, err := clientOf(t, "https://api.example", w).Get(start)
	if err != nil {
		t.Fatal(err)
	}
	drain(t, resp)
	if diff := cmp.Diff([]string{start}, w.withToken()); diff != "" {
		t.Errorf("URLs that got the token (-want +got):\n%s", diff)
	}
}

func TestTestnetAndMainnetAreNotMixedUp(t *testing.T) {
	for name, test := range map[string]struct{ base, url string }{
		"testnet's Transport, mainnet's request": {walletauth.Testnet, walletauth.Mainnet},
		"mainnet's Transport, testnet's request": {walletauth.Mainnet, walletauth.Testnet},
		"the default is testnet":                 {"", walletauth.Mainnet},
		"the host in another case":               {walletauth.Testnet, "https://MAINNET.walletkit.com"},
		"plain http":                             {walletauth.Testnet, "http://mainnet.walletkit.com"},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{}
			body := newCountedBody("body")
			req, err := http.NewRequestWithContext(t.Context(), "POST", test.url+"/wallets", body)
			if err != nil {
				t.Fatal(err)
			}
			_, err = clientOf(t, test.base, w).Transport.RoundTrip(req)
			wantErrorWords(t, "RoundTrip", err, []string{"walletauth: ", "testnet.walletkit.com", "mainnet.walletkit.com", "change"})
			body.wantClosed(t)
			if len(w.asked) > 0 {
				t.Error("the request was sent")
			}
		})
	}
}

func TestRequestToTheOtherNetworkWithItsOwnAuthorizationPasses(t *testing.T) {
	for _, name := range []string{"Authorization", "authorization"} {
		t.Run(name, func(t *testing.T) {
			w := &world{}
			req, err := http.NewRequestWithContext(t.Context(), "GET", walletauth.Mainnet+"/wallets", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header[name] = []string{"Bearer own"}
			resp, err := clientOf(t, walletauth.Testnet, w).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			drain(t, resp)
			if diff := cmp.Diff([]string{"Bearer own"}, w.asked[0].header[name]); diff != "" || len(w.asked[0].header) != 1 {
				t.Errorf("the header was changed: %v", w.asked[0].header)
			}
		})
	}
}

func TestTransportForAStandInKnowsNoMixUp(t *testing.T) {
	w := &world{}
	resp, err := clientOf(t, "https://api.example", w).Get(walletauth.Mainnet + "/wallets")
	if err != nil {
		t.Fatal(err)
	}
	if drain(t, resp); len(w.withToken()) > 0 {
		t.Error("the token was sent")
	}
}

// publicEndpoints are the API's endpoints that take no bearer.
var publicEndpoints = []string{
	walletauthtest.LoginAnonymously, walletauthtest.VerifyLogin, walletauthtest.RefreshToken,
	walletauthtest.LoginWithEmail, walletauthtest.LoginWithWallet, walletauthtest.LoginWithMagicLink,
	walletauthtest.LoginWithPasskey, walletauthtest.LoginWithDiscoverablePasskey,
	walletauthtest.CreateSessionChallenge, walletauthtest.GetSessionChallenge,
}

func TestPublicEndpointsNeedNoSessionAndGetNoToken(t *testing.T) {
	for _, endpoint := range publicEndpoints {
		for name, loggedIn := range map[string]bool{" logged in": true, " logged out": false} {
			t.Run(endpoint+name, func(t *testing.T) {
				w := newWire(t, walletauthtest.Config{})
				w.transport.ProjectID = "project"
				if !loggedIn {
					w.transport.Store = &walletauth.MemoryStore{}
				}
				w.Fail(endpoint, 1, walletauthtest.Fault{Status: 200})
				sent := w.sawHeader()
				method, path, _ := strings.Cut(endpoint, " ")
				w.wantStatus(t, method, path, 200)
				if diff := cmp.Diff(http.Header{"X-Walletkit-Project-Id": {"project"}}, sent()); diff != "" {
					t.Errorf("headers (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestPublicEndpointsRefreshNothing(t *testing.T) {
	for _, endpoint := range publicEndpoints {
		t.Run(endpoint, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{AccessTokenTTL: -time.Minute}) // would be refreshed anywhere else
			w.Fail(endpoint, -1, walletauthtest.Fault{Status: 401, Body: "no"})
			method, path, _ := strings.Cut(endpoint, " ")
			resp := w.mustDo(t, w.newRequest(t, method, path, nil))
			if body := drain(t, resp); resp.StatusCode != 401 || body != "no" {
				t.Errorf("status %d, body %q, want the 401 as it came", resp.StatusCode, body)
			}
			if got := w.Stats().Requests; got != 1 {
				t.Errorf("%d requests, want 1", got)
			}
		})
	}
}

func TestPublicEndpointIsFoundUnderABasePath(t *testing.T) {
	w := &world{}
	client := clientOf(t, "https://api.example/v1", w)
	for _, url := range []string{"https://api.example/v1/users/login-anonymously", "https://api.example/v1/v1/users/login-anonymously"} {
		resp, err := client.Post(url, "application/json", nil)
		if err != nil {
			t.Fatal(err)
		}
		drain(t, resp)
	}
	if w.asked[0].header.Get("Authorization") != "" || w.asked[1].header.Get("Authorization") == "" {
		t.Errorf("headers %v", w.asked)
	}
}

func TestEndpointsThatResemblePublicOnesTakeTheToken(t *testing.T) {
	for _, endpoint := range []string{
		"GET /users/login-anonymously", "POST /users/session-challenge", "POST /users/logout",
		"POST /users/passkey/begin-registration", "POST /users/login-anonymously/more", "GET /users", "GET ",
	} {
		t.Run(endpoint, func(t *testing.T) {
			w := &world{}
			method, path, _ := strings.Cut(endpoint, " ")
			req, err := http.NewRequestWithContext(t.Context(), method, "https://api.example"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := clientOf(t, "https://api.example", w).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if drain(t, resp); w.asked[0].header.Get("Authorization") == "" {
				t.Error("no token was sent")
			}
		})
	}
}

func TestPublicEndpointWithoutAnyProjectIsSentWithoutOne(t *testing.T) {
	w := &world{}
	transport := &walletauth.Transport{Store: &walletauth.MemoryStore{}, BaseURL: "https://api.example", Base: w}
	resp, err := (&http.Client{Transport: transport}).Post("https://api.example/users/login-anonymously", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if drain(t, resp); len(w.withToken()) > 0 {
		t.Errorf("header %v", w.asked[0].header)
	}
}

func TestProjectThatCannotBeSentIsLeftOutOfPublicEndpoints(t *testing.T) {
	w, store := &world{}, &walletauth.MemoryStore{}
	err := store.Update(t.Context(), "", func(context.Context, *walletauth.Session) (*walletauth.Session, error) {
		return &walletauth.Session{ProjectID: "a\nb"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	transport := &walletauth.Transport{Store: store, BaseURL: "https://api.example", Base: w}
	resp, err := (&http.Client{Transport: transport}).Post("https://api.example/users/login-anonymously", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if drain(t, resp); len(w.withToken()) > 0 {
		t.Errorf("header %v", w.asked[0].header)
	}
}

func TestProjectOfAStoredSessionServesPublicEndpoints(t *testing.T) {
	w := &world{}
	resp, err := clientOf(t, "https://api.example", w).Post("https://api.example/users/login-anonymously", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	drain(t, resp)
	if got := w.asked[0].header.Get("X-WalletKit-Project-ID"); got != "project" {
		t.Errorf("project %q", got)
	}
}
