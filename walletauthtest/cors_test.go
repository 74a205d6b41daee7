package walletauthtest_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/walletauth/walletauth/walletauthtest"
)

const page = "http://127.0.0.1:8080"

// preflight is what a browser asks before a page may send a request of the API.
func preflight(origin, method string) http.Header {
	return http.Header{
		"Origin":                         {origin},
		"Access-Control-Request-Method":  {method},
		"Access-Control-Request-Headers": {"authorization,content-type,x-walletkit-project-id,x-walletkit-token-source"},
		"X-Walletkit-Project-Id":         nil, // a preflight carries none of what it asks for
	}
}

func (c *client) wantHeader(r reply, name, want string) {
	c.Helper()
	if got := strings.Join(r.header.Values(name), "; "); got != want {
		c.Errorf("%s: %q, want %q", name, got, want)
	}
}

func TestPagesOfAllowedOriginsMayCall(t *testing.T) {
	for name, allowed := range map[string][]string{"by name": {"https://app.example", page}, "all": {"*"}} {
		t.Run(name, func(t *testing.T) {
			srv := walletauthtest.NewServer(walletauthtest.Config{CORS: allowed})
			defer srv.Close()
			c, s := newClient(t, srv), srv.Login("user-1")
			for _, path := range []string{"/wallets", "/users/refresh-token", "/elsewhere"} {
				r := c.send("OPTIONS "+path, "", preflight(page, "POST"))
				c.wantStatus("the preflight", r, 204)
				c.wantHeader(r, "Access-Control-Allow-Origin", page)
				c.wantHeader(r, "Access-Control-Allow-Methods", "POST")
				c.wantHeader(r, "Access-Control-Allow-Headers", "Authorization, Content-Type, X-WalletKit-Project-ID, X-WalletKit-Token-Source, Walletauthtest-User")
				c.wantHeader(r, "Vary", "Origin")
			}
			header := bearer(s.AccessToken)
			header.Set("Origin", page)
			r := c.send(walletauthtest.ListWallets, "", header)
			c.wantStatus("the request", r, 200)
			c.wantHeader(r, "Access-Control-Allow-Origin", page)
			c.wantHeader(r, "Access-Control-Expose-Headers", "Date, Retry-After")
			header.Set("Authorization", "Bearer guessed")
			r = c.send(walletauthtest.ListWallets, "", header)
			c.wantRefusal("a refusal", r, 401, unauthorized)
			c.wantHeader(r, "Access-Control-Allow-Origin", page)
			srv.Fail(walletauthtest.ListWallets, 1, fault{Status: 503})
			r = c.send(walletauthtest.ListWallets, "", header)
			c.wantStatus("a fault", r, 503)
			c.wantHeader(r, "Access-Control-Allow-Origin", page)
			if got := srv.Stats(); got.Requests != 6 || got.Violations != 0 {
				t.Errorf("%d requests, %d violations, want 6 and none", got.Requests, got.Violations)
			}
		})
	}
}

func TestPagesOfOtherOriginsMayNotCall(t *testing.T) {
	for name, row := range map[string]struct {
		allowed []string
		refusal string
	}{
		"none is allowed":    {nil, "pages of other origins may not call this server: name theirs in walletauthtest.Config.CORS"},
		"another is allowed": {[]string{"https://app.example"}, "pages of this origin may not call this server, only those of https://app.example (walletauthtest.Config.CORS)"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := walletauthtest.NewServer(walletauthtest.Config{CORS: row.allowed})
			defer srv.Close()
			c, s := newClient(t, srv), srv.Login("user-1")
			r := c.send("OPTIONS /wallets", "", preflight(page, "GET"))
			c.wantRefusal("the preflight", r, 403, row.refusal)
			c.wantHeader(r, "Access-Control-Allow-Origin", "")
			header := bearer(s.AccessToken)
			header.Set("Origin", page)
			r = c.send(walletauthtest.ListWallets, "", header)
			c.wantStatus("a request, which a browser then hides from the page", r, 200)
			c.wantHeader(r, "Access-Control-Allow-Origin", "")
		})
	}
}

func TestOptionsThatIsNoPreflightIsNoEndpoint(t *testing.T) {
	srv := walletauthtest.NewServer(walletauthtest.Config{CORS: []string{"*"}, TB: t})
	c := newClient(t, srv)
	c.wantRefusal("OPTIONS", c.send("OPTIONS /wallets", "", nil), 404, "no such endpoint: /wallets takes GET or POST")
}

func TestConfigCORSThatIsNoOriginPanics(t *testing.T) {
	for _, wrong := range []string{"", "app.example", "https://app.example/", "https://app.example/page", "https://App.example", "https://*.example", "null"} {
		t.Run(wrong, func(t *testing.T) {
			defer func() {
				if p := fmt.Sprint(recover()); !strings.Contains(p, fmt.Sprintf("%q is no origin: it is scheme://host", wrong)) {
					t.Errorf("panic %q, want one that names the origin", p)
				}
			}()
			walletauthtest.NewUnstartedServer(walletauthtest.Config{CORS: []string{wrong}})
		})
	}
}
