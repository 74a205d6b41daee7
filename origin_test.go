package walletauth_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// lookalikes are hosts that lowering, folding or unescaping may turn into
// WalletKit's, while a dialer takes them to another.
var lookalikes = map[string]string{
	"a dotted capital I":          "testnet.walletk\u0130t.com",
	"one written as escapes":      "testnet.walletk%C4%B0t.com",
	"a dotless i":                 "testnet.walletk\u0131t.com",
	"a Kelvin sign":               "testnet.wallet\u212ait.com",
	"a long s":                    "te\u017ftnet.walletkit.com",
	"a fullwidth letter":          "testnet.walletk\uff49t.com",
	"a fullwidth full stop":       "testnet.walletkit\uff0ecom",
	"a soft hyphen":               "testnet.wallet\u00adkit.com",
	"a byte that is no character": "testnet.walletkit\xff.com",
}

func TestOrigin(t *testing.T) {
	for name, host := range lookalikes {
		t.Run("a host with "+name+" gets no token", func(t *testing.T) {
			w := &world{}
			u, err := url.Parse("https://" + host + "/wallets")
			if err != nil {
				u = &url.URL{Scheme: "https", Host: host, Path: "/wallets"}
			}
			req := (&http.Request{Method: "GET", URL: u, Header: http.Header{}}).WithContext(t.Context())
			resp, err := clientOf(t, walletauth.Testnet, w).Transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			drain(t, resp)
			if got := w.withToken(); len(got) > 0 {
				t.Errorf("the token went to %s", got)
			}
		})
		t.Run("a redirect to a host with "+name+" takes no token along", func(t *testing.T) {
			const from = walletauth.Testnet + "/wallets"
			w := &world{redirect: map[string]string{from: "https://" + host + "/wallets"}, status: 302}
			req, err := http.NewRequestWithContext(t.Context(), "GET", from, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := clientOf(t, walletauth.Testnet, w).Do(req)
			if err == nil {
				drain(t, resp)
			}
			if diff := cmp.Diff([]string{from}, w.withToken()); diff != "" {
				t.Errorf("URLs that got the token (-want +got):\n%s", diff)
			}
		})
		t.Run("a BaseURL with "+name+" lets no token out", func(t *testing.T) {
			for _, to := range []string{"https://" + host, walletauth.Testnet} {
				w := &world{}
				u, err := url.Parse(to + "/wallets")
				if err != nil {
					return
				}
				req := (&http.Request{Method: "GET", URL: u, Header: http.Header{}}).WithContext(t.Context())
				if resp, err := clientOf(t, "https://"+host, w).Transport.RoundTrip(req); err == nil {
					drain(t, resp)
				}
				if got := w.withToken(); len(got) > 0 {
					t.Errorf("the token went to %s", got)
				}
			}
		})
	}
	t.Run("the API in capital ASCII letters gets the token, from a redirect too", func(t *testing.T) {
		const from, to = "https://TESTNET.WalletKit.COM/old", "https://testNET.WALLETKIT.com:443/new"
		w := &world{redirect: map[string]string{from: to}, status: 302}
		req, err := http.NewRequestWithContext(t.Context(), "GET", from, nil)
		if err != nil {
			t.Fatal(err)
		}
		drain(t, do(t, clientOf(t, walletauth.Testnet, w), req))
		if diff := cmp.Diff([]string{from, to}, w.withToken()); diff != "" {
			t.Errorf("URLs that got the token (-want +got):\n%s", diff)
		}
	})
}

func do(t *testing.T, client *http.Client, req *http.Request) *http.Response {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// The places are in the order in which they redirect; all but the last do.
func TestRedirect(t *testing.T) {
	const api, other = "https://api.example/v1/", "https://other.example/"
	for name, c := range map[string]struct {
		path []string
		want []string // the URLs that get the token
	}{
		"inside of the API keeps the token":               {[]string{api + "a", api + "b", api + "c"}, []string{api + "a", api + "b", api + "c"}},
		"from a third party into the API has none":        {[]string{other, api + "a"}, nil},
		"that a third party began has none further on":    {[]string{other, api + "a", api + "b"}, nil},
		"that leaves and comes back has none any more":    {[]string{api + "a", other, api + "b", api + "c"}, []string{api + "a"}},
		"by way of plain http has none any more":          {[]string{api + "a", "http://api.example/v1/b", api + "c"}, []string{api + "a"}},
		"by way of another port has none any more":        {[]string{api + "a", "https://api.example:8443/v1/b", api + "c"}, []string{api + "a"}},
		"by way of a path outside has none any more":      {[]string{api + "a", "https://api.example/v2/b", api + "c"}, []string{api + "a"}},
		"by way of a lookalike of a host has none either": {[]string{api + "a", "https://ap\u0130.example/v1/b", api + "c"}, []string{api + "a"}},
	} {
		for _, status := range []int{302, 307} {
			t.Run(name+", by "+http.StatusText(status), func(t *testing.T) {
				w := &world{redirect: map[string]string{}, status: status}
				for i := range c.path[1:] {
					from, err := url.Parse(c.path[i])
					if err != nil {
						t.Fatal(err)
					}
					w.redirect[from.String()] = c.path[i+1] // as it is dialled
				}
				req, err := http.NewRequestWithContext(t.Context(), "POST", c.path[0], strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				drain(t, do(t, clientOf(t, api, w), req))
				if diff := cmp.Diff(c.want, w.withToken()); diff != "" {
					t.Errorf("URLs that got the token (-want +got):\n%s", diff)
				}
				if len(w.asked) != len(c.path) {
					t.Errorf("%d requests, want that all %d redirects are followed", len(w.asked), len(c.path)-1)
				}
			})
		}
	}
	t.Run("whose response has no Request counts as a third party's", func(t *testing.T) {
		w := &world{}
		req, err := http.NewRequestWithContext(t.Context(), "GET", api+"a", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Response = &http.Response{StatusCode: 302}
		resp, err := clientOf(t, api, w).Transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		drain(t, resp)
		if got := w.withToken(); len(got) > 0 {
			t.Errorf("the token went to %s", got)
		}
	})
	t.Run("is told from the Request that a response that passes through gets", func(t *testing.T) {
		transport := clientOf(t, api, &world{}).Transport.(*walletauth.Transport)
		transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
			resp := reply(req, 200, "")
			resp.Request = nil // as some base transports forget
			return resp, nil
		})
		req, err := http.NewRequestWithContext(t.Context(), "GET", other, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if drain(t, resp); resp.Request != req {
			t.Errorf("the response's Request is %v", resp.Request)
		}
	})
	t.Run("inside of the API is mended after a 401", func(t *testing.T) {
		w := newWire(t, walletauthtest.Config{})
		w.Handle("GET /old", http.RedirectHandler("/wallets", http.StatusFound))
		w.RevokeAccess("user-1")
		w.wantStatus(t, "GET", "/old", 200)
		w.wantRefreshes(t, 1)
	})
}

// A page that a user visits, or a service that a program calls, must not log
// the user out or in as somebody else.
func TestRedirectOfAThirdParty(t *testing.T) {
	for path, what := range map[string]string{
		"/users/logout":            "does not log out",
		"/users/login-anonymously": "does not log in",
	} {
		for name, start := range map[string]string{
			"on another host":            "https://other.example/",
			"that the API sent it to":    "https://walletkit.test/away",
			"on the API's host by http":  "http://walletkit.test/away",
			"on a lookalike of the host": "https://walletk\u0130t.test/",
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWire(t, walletauthtest.Config{TB: silent{t}})
					w.transport.CaptureLogin, w.transport.ProjectID = true, "project"
					base := w.transport.Base
					w.transport.Base = baseFunc(func(req *http.Request) (*http.Response, error) {
						to := ""
						switch {
						case req.URL.Host == "other.example", req.URL.Scheme == "http", req.URL.Host == "walletk\u0130t.test":
							to = "https://walletkit.test" + path
						case req.URL.Path == "/away":
							to = "https://other.example/"
						default:
							return base.RoundTrip(req)
						}
						resp := reply(req, 307, "")
						resp.Header.Set("Location", to)
						return resp, nil
					})
					req, err := http.NewRequestWithContext(t.Context(), "POST", start, nil)
					if err != nil {
						t.Fatal(err)
					}
					drain(t, do(t, w.client, req))
					if s := w.stored(t, ""); s == nil || *s != *w.session {
						t.Errorf("the store holds %v", s)
					}
					if n := w.Stats().Logouts; n != 0 {
						t.Errorf("%d sessions were ended", n)
					}
					w.wantStatus(t, "GET", "/wallets", 200)
				})
			})
		}
	}
	for path, gone := range map[string]bool{"/users/logout": true, "/users/login-anonymously": false} {
		t.Run("is not a redirect inside of the API, which is captured: "+path, func(t *testing.T) {
			w := newWire(t, walletauthtest.Config{})
			w.transport.CaptureLogin, w.transport.ProjectID = true, "project"
			w.Handle("POST /old", http.RedirectHandler(path, http.StatusTemporaryRedirect))
			req := w.newRequest(t, "POST", "/old", nil)
			drain(t, w.mustDo(t, req))
			if s := w.stored(t, ""); (s == nil) != gone || s != nil && s.UserID == "user-1" {
				t.Errorf("the store holds %v", s)
			}
		})
	}
}
