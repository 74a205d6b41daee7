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
