package walletauth_test

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/walletauth/walletauth"
)

// Whatever the header of a 401, of the refresh and of the replay says: the
// session is traded in once, the caller gets its answer with that header, and
// the next request is served too.
func FuzzResponseHeader(f *testing.F) {
	f.Add("Sat, 01 Jan 2000 00:00:00 GMT", "", `Bearer error="invalid_token"`, "application/json", "0", "Connection", "close")
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT", "120", "", "text/html", "-1", "", "")
	f.Add("Mon, 01 Jan 0001 00:00:00 GMT", "-1", "Basic", "", "99999999999999999999", "Date", "Sat, 01 Jan 2000 09:00:00 GMT")
	f.Add("Saturday, 01-Jan-00 05:00:00 GMT", "Sat, 01 Jan 2000 00:00:09 GMT", "", "multipart/mixed; boundary=\"", "1", "Content-Encoding", "gzip")
	f.Fuzz(func(t *testing.T, date, retryAfter, authenticate, kind, length, name, value string) {
		synctest.Test(t, func(t *testing.T) {
			checkResponseHeader(t, http.Header{
				name: {value}, "Date": {date}, "Retry-After": {retryAfter}, "Www-Authenticate": {authenticate},
				"Content-Type": {kind}, "Content-Length": {length},
			})
		})
	})
}

func checkResponseHeader(t *testing.T, header http.Header) {
	store, before := &walletauth.MemoryStore{}, freshSession()
	before.AccessToken, before.RefreshToken = "OLD-access-5ecret", "OLD-refresh-5ecret"
	if err := walletauth.Save(t.Context(), store, "", before); err != nil {
		t.Fatal(err)
	}
	refreshes := 0
	tr := &walletauth.Transport{Store: store, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
		a := answer{status: 200, header: header}
		switch {
		case strings.HasSuffix(req.URL.Path, "/users/refresh-token"):
			refreshes++
			a.body = encoded(t, freshSession())
		case req.Header.Get("Authorization") == "Bearer "+before.AccessToken:
			a.status = 401
		}
		return a.response(), nil
	})}
	for range 2 {
		resp, err := tr.RoundTrip(mustRequest(t, http.MethodGet, "/wallets"))
		if err != nil {
			t.Fatal(err)
		}
		answer{status: 200, header: header}.check(t, resp)
	}
	stored, err := store.Load(t.Context(), "")
	if err != nil || *stored != *freshSession() {
		t.Errorf("stored %v, %v", stored, err)
	}
	if refreshes == 0 || refreshes > 2 { // by a Date that is wrong the new session may be due at once
		t.Errorf("%d refreshes", refreshes)
	}
	if err := tr.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whatever header a caller sets, in whatever spelling of its name: its own
// Authorization, project and token source win, what it does not set is added
// once, all else goes out as it is, and the request stays the caller's.
func FuzzRequestHeader(f *testing.F) {
	f.Add("Accept", "application/json", "", "", "", "", "")
	f.Add("authorization", "Bearer mine", "Authorization", "", "", "", "")
	f.Add("AUTHORIZATION", "", "x-walletkit-project-id", "mine", "X-WalletKit-Token-Source", "firebase", "second")
	f.Add("X-Walletkit-Project-Id", "", "X-Walletkit-Token-Source", "", "Authorization", "Basic bWU6bWU=", "Bearer other")
	f.Add("\x00", "\r\nX: y", "Cookie", "a=b", "Host", "elsewhere.example", "")
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2, name3, value3, again string) {
		header := http.Header{name1: {value1}, name2: {value2}}
		header[name3] = append(header[name3], value3, again)
		checkRequestHeader(t, header)
	})
}

func checkRequestHeader(t *testing.T, header http.Header) {
	s, store := freshSession(), &walletauth.MemoryStore{}
	s.AccessTokenExpiresAt = s.CreatedAt.AddDate(1000, 0, 0)
	if err := walletauth.Save(t.Context(), store, "", s); err != nil {
		t.Fatal(err)
	}
	var out http.Header
	tr := &walletauth.Transport{Store: store, Base: baseFunc(func(req *http.Request) (*http.Response, error) {
		out = req.Header
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
	})}
	req := mustRequest(t, http.MethodGet, "/wallets")
	req.Header = header.Clone()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(header, resp.Request.Header); resp.Request != req || diff != "" {
		t.Errorf("the caller's request changed (-was +is):\n%s", diff)
	}
	checkSent(t, header, out, s)
}

func checkSent(t *testing.T, header, out http.Header, s *walletauth.Session) {
	want := http.Header{
		"Authorization":            {"Bearer " + s.AccessToken},
		"X-Walletkit-Project-Id":   {s.ProjectID},
		"X-Walletkit-Token-Source": {"walletkit"},
	}
	if len(given(header, "Authorization")) > 0 {
		delete(want, "X-Walletkit-Token-Source") // it says whose token ours is
	}
	for name := range header {
		usual := http.CanonicalHeaderKey(name)
		if _, ours := wanted[usual]; !ours {
			want[name] = header[name]
			continue
		}
		if choices := given(header, usual); len(choices) > 0 {
			want[usual] = choices[0]
			if slices.ContainsFunc(choices, func(c []string) bool { return slices.Equal(c, out[usual]) }) {
				want[usual] = out[usual] // which of several spellings wins, nobody promises
			}
		}
	}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}

var wanted = map[string]bool{"Authorization": true, "X-Walletkit-Project-Id": true, "X-Walletkit-Token-Source": true}

// given are the values of a field under all the spellings of its name that say
// anything.
func given(header http.Header, usual string) (choices [][]string) {
	for name, values := range header {
		if http.CanonicalHeaderKey(name) == usual && strings.Join(values, "") != "" {
			choices = append(choices, values)
		}
	}
	return choices
}

// Wherever a redirect leads, only requests to the API's own origin and path
// carry the token.
func FuzzRedirect(f *testing.F) {
	for _, location := range []string{
		"/wallets", "../wallets", "https://elsewhere.example/v1/wallets", "//elsewhere.example/v1", "https://api.example.com/v1/../v2",
		"https://api.example.com:443/v1/x", "HTTPS://API.EXAMPLE.COM/v1/%2e%2e/v2", "http://api.example.com/v1/x",
		"https://api.example.com@elsewhere.example/v1/x", "https://user@api.example.com/v1/x", "https://api.example.com:8443/v1",
		"https://api.example.com./v1/x", "https:/v1/x", "https:api.example.com/v1", "/v1x", "/v1//x", "/v1/..%2fv2", "\\elsewhere.example/v1/",
	} {
		f.Add(307, location)
	}
	f.Fuzz(func(t *testing.T, status int, location string) {
		store := &walletauth.MemoryStore{}
		s := freshSession()
		s.AccessTokenExpiresAt = s.CreatedAt.AddDate(1000, 0, 0)
		if err := walletauth.Save(t.Context(), store, "", s); err != nil {
			t.Fatal(err)
		}
		visits := 0
		client := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: "https://api.example.com/v1", Base: baseFunc(func(req *http.Request) (*http.Response, error) {
			visits++
			if strings.Contains(req.Header.Get("Authorization"), s.AccessToken) && !atHome(req.URL) {
				t.Errorf("%q got the token", req.URL)
			}
			a := answer{status: 200, header: http.Header{}}
			if visits == 1 {
				a.status, a.header = status, http.Header{"Location": {location}}
			}
			return a.response(), nil
		})}}
		resp, err := client.Get("https://api.example.com/v1/wallets")
		if err == nil {
			err = resp.Body.Close()
		}
		if visits == 0 || visits > 2 {
			t.Errorf("%d requests (%v)", visits, err)
		}
	})
}

func atHome(u *url.URL) bool {
	host, port := strings.ToLower(u.Hostname()), u.Port()
	return u.Scheme == "https" && host == "api.example.com" && (port == "" || port == "443") &&
		strings.HasPrefix(path.Clean(u.Path)+"/", "/v1/")
}
