package api

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestEndpointURLIsBaseURLWithoutItsSlash(t *testing.T) {
	for base, want := range map[string]string{
		"https://api.example":            "https://api.example/x",
		"HTTPS://API.example:443/":       "https://api.example/x",
		"https://api.example:8443/v1//":  "https://api.example:8443/v1/x",
		"http://[::1]:80/a%2Fb":          "http://[::1]/a%2Fb/x",
		"http://[::1]:8080":              "http://[::1]:8080/x",
		"https://api.example:/with%20sp": "https://api.example/with%20sp/x",
	} {
		e, err := Parse(base, false)
		if err != nil {
			t.Errorf("%s: %v", base, err)
			continue
		}
		if got := e.URL("/x"); got != want {
			t.Errorf("%s: URL %s, want %s", base, got, want)
		}
	}
}

func TestEndpointCoversItsOwnURLs(t *testing.T) {
	for _, base := range []string{
		"https://api.example", "https://api.example/", "https://api.example/v1", "https://API.example:443/v1/",
		"http://127.0.0.1:8080", "http://[::1]", "https://api.example/a%2Fb", "https://api.example/a%20b/c",
	} {
		e, err := Parse(base, false)
		if err != nil {
			t.Errorf("%s: %v", base, err)
			continue
		}
		for _, text := range []string{e.URL(RefreshPath), strings.TrimSuffix(base, "/") + RefreshPath} {
			u, err := url.Parse(text)
			if err != nil || !e.covers(u) {
				t.Errorf("%s does not cover %s (%v)", base, text, err)
			}
			if e.Kind(&http.Request{Method: "POST", URL: u}) != Login {
				t.Errorf("%s does not know %s as a login", base, text)
			}
		}
	}
}

// A path that a server may resolve to another one would cover no request, and
// all would go out without a token and without a word.
func TestBaseURLWithAPathThatNoRequestCanMatchIsRefused(t *testing.T) {
	for _, base := range []string{
		"https://api.example/v1/../v2", "https://api.example/./v1", "https://api.example//v1",
		"https://api.example/v1//x", "https://api.example/%2e%2e/v1",
	} {
		_, err := Parse(base, false)
		if err == nil || !strings.Contains(err.Error(), "Transport.BaseURL") {
			t.Errorf("%s: error %v, want one that names Transport.BaseURL", base, err)
		}
	}
}

func TestMethodIsGetWhereNoneIsSaid(t *testing.T) {
	e, err := Parse("https://testnet.walletkit.com", false)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse("https://testnet.walletkit.com" + "/users/session-challenge")
	if err != nil {
		t.Fatal(err)
	}
	if e.Kind(&http.Request{URL: u}) != Public {
		t.Error("GET /users/session-challenge is not public")
	}
}

func mustParse(t *testing.T, base string) Origin {
	t.Helper()
	o, err := Parse(base, false)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestParseSaysWhatIsWrongAndRepeatsNoPassword(t *testing.T) {
	for name, row := range map[string]struct{ base, want string }{
		"no URL":                     {"https://user:5ecret@a b", "is not a URL"},
		"nothing":                    {"", "is not an absolute http or https URL"},
		"no scheme":                  {"api.example", "is not an absolute http or https URL"},
		"another scheme":             {"ftp://api.example", "is not an absolute http or https URL"},
		"no host":                    {"https:///v1", "is not an absolute http or https URL"},
		"a port and no host":         {"https://:443", "is not an absolute http or https URL"},
		"a host that is not ASCII":   {"https://walletk\u0130t.example", "write it in punycode"},
		"an IPv6 zone":               {"https://[fe80::1%25eth0]", "has an IPv6 zone"},
		"a user":                     {"https://user:5ecret@api.example", "remove user, query and fragment"},
		"a query":                    {"https://api.example?key=5ecret", "remove user, query and fragment"},
		"an empty query":             {"https://api.example?", "remove user, query and fragment"},
		"a fragment":                 {"https://api.example#5ecret", "remove user, query and fragment"},
		"plain http":                 {"http://api.example:8080", "would send tokens to api.example:8080 over plain http"},
		"a name that begins so":      {"http://localhost.example", "over plain http"},
		"a name that ends so":        {"http://notlocalhost", "over plain http"},
		"an address that is private": {"http://10.0.0.1", "over plain http"},
		"IPv6 that is not loopback":  {"http://[::2]", "over plain http"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(row.base, false)
			if err == nil || !strings.HasPrefix(err.Error(), "walletauth: Transport.BaseURL ") || !strings.Contains(err.Error(), row.want) {
				t.Fatalf("got %v, want %q", err, row.want)
			}
			if strings.Contains(err.Error(), "5ecret") {
				t.Errorf("the error repeats a secret: %v", err)
			}
		})
	}
}

func TestPlainHTTPIsForLoopbackOrByPermission(t *testing.T) {
	for _, base := range []string{
		"http://localhost", "http://LOCALHOST.:8080", "http://api.localhost", "http://127.0.0.1:80", "http://127.255.0.9",
		"http://[::1]:8080", "http://[::ffff:127.0.0.1]",
	} {
		if _, err := Parse(base, false); err != nil {
			t.Errorf("%s: %v", base, err)
		}
	}
	if _, err := Parse("http://api.example", true); err != nil {
		t.Errorf("with permission: %v", err)
	}
}

func TestKindOfEveryEndpoint(t *testing.T) {
	for _, base := range []string{"https://api.example", "https://api.example/v1/", "https://api.example/a%2Fb"} {
		o := mustParse(t, base)
		for _, row := range []struct {
			method, path string
			want         Kind
		}{
			{"POST", "/users/login-anonymously", Login},
			{"POST", "/users/verify-login", Login},
			{"POST", "/users/refresh-token", Login},
			{"POST", "/users/login-with-email", Public},
			{"POST", "/users/login-with-wallet", Public},
			{"POST", "/users/login-with-magic-link", Public},
			{"POST", "/users/login-with-passkey", Public},
			{"POST", "/users/login-with-discoverable-passkey", Public},
			{"POST", "/users/create-session-challenge", Public},
			{"GET", "/users/session-challenge", Public},
			{"", "/users/session-challenge", Public},
			{"POST", "/users/logout", Logout},
			{"GET", "/users/logout", WithSession},
			{"GET", "/users/login-anonymously", WithSession},
			{"POST", "/users/session-challenge", WithSession},
			{"post", "/users/logout", WithSession}, // methods are case-sensitive (RFC 9110, section 9.1)
			{"POST", "/users/logout/", WithSession},
			{"POST", "/users//logout", WithSession},
			{"POST", "/users/passkey/create", WithSession},
			{"POST", "/wallets/users/logout", WithSession},
			{"GET", "/wallets", WithSession},
			{"GET", "/", WithSession},
			{"GET", "", WithSession},
		} {
			req := &http.Request{Method: row.method, URL: mustURL(t, o.URL(row.path))}
			if got := o.Kind(req); got != row.want {
				t.Errorf("%s: %q %s is of kind %d, want %d", base, row.method, row.path, got, row.want)
			}
		}
	}
}

func TestOnlyTheAPIsOwnURLsAreCovered(t *testing.T) {
	for _, row := range []struct {
		base, url string
		want      bool
	}{
		{"https://api.example", "https://api.example", true},
		{"https://api.example", "https://aPi.EXAMPLE:443/wallets", true},
		{"https://api.example", "HTTPS://api.example/wallets", true},
		{"https://api.example", "https://api.example:/wallets", true},
		{"https://api.example:8443", "https://api.example:8443/wallets", true},
		{"https://[2001:DB8::1]", "https://[2001:db8::1]:443/wallets", true},
		{"https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443/wallets", true},
		{"https://api.example", "https://api.example:80/wallets", false},
		{"https://api.example", "http://api.example/wallets", false},
		{"https://api.example", "http://api.example:443/wallets", false},
		{"https://api.example", "https://api.example./wallets", false},
		{"https://api.example", "https://x.api.example/wallets", false},
		{"https://api.example", "https://ap\u0131.example/wallets", false},
		{"https://api.example", "https://AP\u0130.example/wallets", false},
		{"https://api.example/v1", "https://api.example/v1", true},
		{"https://api.example/v1", "https://api.example/v1/a/../wallets", true},
		{"https://api.example/v1", "https://api.example/v12", false},
		{"https://api.example/v1", "https://api.example/v1/../other", false},
		{"https://api.example/v1", "https://api.example/v1/%2e%2e/other", false},
		{"https://api.example/v1", "https://api.example/v1/..%2fother", false},
		{"https://api.example/a%2Fb", "https://api.example/a/b/wallets", false},
	} {
		if got := mustParse(t, row.base).covers(mustURL(t, row.url)); got != row.want {
			t.Errorf("%s covers %s: %t, want %t", row.base, row.url, got, row.want)
		}
	}
	o := mustParse(t, "https://api.example")
	if o.covers(nil) || o.covers(&url.URL{Scheme: "https", Host: "api.example", Opaque: "//other.example/x"}) {
		t.Error("no URL or an opaque one is covered")
	}
}

// redirected is a request for the last of urls, to which redirects from the
// others led.
func redirected(t *testing.T, urls ...string) *http.Request {
	t.Helper()
	var req *http.Request
	for _, text := range urls {
		next := &http.Request{Method: "GET", URL: mustURL(t, text)}
		if req != nil {
			next.Response = &http.Response{Request: req}
		}
		req = next
	}
	return req
}

// circular is a request for the last of urls, whose chain of redirects runs in a
// circle through the last n of them.
func circular(t *testing.T, n int, urls ...string) *http.Request {
	t.Helper()
	req := redirected(t, urls...)
	first := req
	for range n - 1 {
		first = first.Response.Request
	}
	first.Response = &http.Response{Request: req}
	return req
}

func TestARequestThatSomebodyElseLedToTheAPIIsOutside(t *testing.T) {
	const home, there = "https://api.example/wallets", "https://elsewhere.example/"
	o := mustParse(t, "https://api.example")
	for name, row := range map[string]struct {
		req  *http.Request
		want Kind
	}{
		"no redirect":               {redirected(t, home), WithSession},
		"from the API":              {redirected(t, home, home), WithSession},
		"from the API twice":        {redirected(t, home, home, home), WithSession},
		"from elsewhere":            {redirected(t, there, home), Outside},
		"from elsewhere, then home": {redirected(t, there, home, home), Outside},
		"out and back":              {redirected(t, home, there, home), Outside},
		"over plain http":           {redirected(t, "http://api.example/wallets", home), Outside},
		"from nobody knows where":   {&http.Request{URL: mustURL(t, home), Response: &http.Response{}}, Outside},
		"without a URL":             {&http.Request{}, Outside},
		// A caller may put the response of an earlier attempt into the request.
		"from itself":                          {circular(t, 1, home), WithSession},
		"in a circle of two":                   {circular(t, 2, home, home), WithSession},
		"in a circle of seven":                 {circular(t, 7, home, home, home, home, home, home, home), WithSession},
		"in a circle that leads elsewhere":     {circular(t, 3, there, home, home), Outside},
		"in a circle that led elsewhere first": {circular(t, 5, home, home, there, home, home), Outside},
	} {
		t.Run(name, func(t *testing.T) {
			if got := o.Kind(row.req); got != row.want {
				t.Errorf("kind %d, want %d", got, row.want)
			}
		})
	}
}

func TestTestnetAndMainnetAreNotMixedUp(t *testing.T) {
	const testnet, mainnet = "https://testnet.walletkit.com", "https://mainnet.walletkit.com"
	for _, row := range []struct {
		base, url string
		mixed     bool
	}{
		{testnet, mainnet + "/wallets", true},
		{mainnet, testnet + "/wallets", true},
		{testnet, "http://MAINNET.walletkit.com:8080", true},
		{testnet, testnet, false},
		{mainnet, mainnet, false},
		{testnet, "https://elsewhere.example", false},
		{"https://api.example", mainnet, false},
	} {
		err := mustParse(t, row.base).WrongNetwork(&http.Request{URL: mustURL(t, row.url)})
		if (err != nil) != row.mixed {
			t.Errorf("%s and %s: %v", row.base, row.url, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "testnet.walletkit.com") || !strings.Contains(err.Error(), "mainnet.walletkit.com")) {
			t.Errorf("the error does not name both: %v", err)
		}
	}
	if err := mustParse(t, testnet).WrongNetwork(&http.Request{}); err != nil {
		t.Errorf("no URL: %v", err)
	}
}
