package proxy_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/cmd/walletauth/internal/proxy"
	"github.com/walletauth/walletauth/walletauthtest"
)

// bench is a proxy before a stand-in of the API, logged in as ada.
type bench struct {
	*proxy.Proxy
	api   *walletauthtest.Server
	store *walletauth.MemoryStore
	mu    sync.Mutex // guards log
	log   []proxy.Entry
	done  chan proxy.Entry // each entry of the log
}

func start(t *testing.T, api *walletauthtest.Server) *bench {
	t.Helper()
	l, err := proxy.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startAt(t, api, api.URL, l)
}

func startAt(t *testing.T, api *walletauthtest.Server, address string, l net.Listener) *bench {
	t.Helper()
	b := &bench{api: api, store: &walletauth.MemoryStore{}, done: make(chan proxy.Entry, 100)}
	if err := walletauth.Save(t.Context(), b.store, "", api.Login("ada")); err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	transport := &walletauth.Transport{Store: b.store, BaseURL: address}
	b.Proxy = proxy.New(proxy.Config{
		API:       target,
		Transport: transport,
		Explain: func(err error) (int, string) {
			if errors.Is(err, walletauth.ErrSessionExpired) {
				return http.StatusUnauthorized, "log in"
			}
			return http.StatusBadGateway, "try later"
		},
		Log: func(e proxy.Entry) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.log = append(b.log, e)
			b.done <- e
		},
	}, l)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, l, 0) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		logged := fmt.Sprintf("%+v", b.log)
		b.search(t, "the log", logged)
		if secret := b.URL()[strings.LastIndex(b.URL(), "/")+1:]; strings.Contains(logged, secret) {
			t.Errorf("the log holds the secret: %s", logged)
		}
		transport.CloseIdleConnections()
	})
	return b
}

// send sends a request as it is to the proxy and returns the answer's status and
// body.
func (b *bench) send(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	client := &http.Transport{}
	defer client.CloseIdleConnections()
	resp, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	b.search(t, "the answer", fmt.Sprint(resp.Header)+string(body))
	return resp.StatusCode, string(body)
}

// search looks for what no program and no log may get.
func (b *bench) search(t *testing.T, where, text string) {
	t.Helper()
	for _, s := range b.api.Sessions("ada") {
		for name, token := range map[string]string{"refresh": s.RefreshToken, "access": s.AccessToken} {
			if strings.Contains(text, token) {
				t.Errorf("%s holds the %s token: %s", where, name, text)
			}
		}
	}
}

func (b *bench) get(t *testing.T, path string, change func(*http.Request)) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	return b.send(t, req)
}

func TestProxyAddsTheToken(t *testing.T) {
	b := start(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
	status, body := b.get(t, "/wallets?limit=1", nil)
	if status != http.StatusOK || body != "[]\n" && body != "[]" {
		t.Errorf("%d %q", status, body)
	}
	if got := b.api.User("ada").Requests; got != 1 {
		t.Errorf("%d requests of ada, want 1", got)
	}
	e := <-b.done
	if e.Method != "GET" || e.Path != "/wallets" || e.Status != 200 || e.Bytes != int64(len(body)) || e.Refused != "" {
		t.Errorf("logged %+v", e)
	}
}

// Each row is an attack. None may reach the API, none may learn the secret, and
// each is a line in the log.
func TestProxyRefuses(t *testing.T) {
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	b := start(t, api)
	address, err := url.Parse(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimPrefix(address.Path, "/")
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	path := func(p string) func(*http.Request) {
		return func(r *http.Request) { r.URL.Opaque = p }
	}
	for _, attack := range []struct {
		name   string
		change func(*http.Request)
	}{
		{"a name that was made to resolve to loopback", func(r *http.Request) { r.Host = "attacker.example" }},
		{"such a name with the right port", func(r *http.Request) { r.Host = "attacker.example:" + address.Port() }},
		{"the right host with another port", func(r *http.Request) { r.Host = "127.0.0.1:1" }},
		{"the right host without a port", func(r *http.Request) { r.Host = "127.0.0.1" }},
		{"another loopback address", func(r *http.Request) { r.Host = "127.0.0.2:" + address.Port() }},
		{"a page of another origin", header("Origin", "https://attacker.example")},
		{"a page of a sandbox or a file", header("Origin", "null")},
		{"a page on another port of this machine", header("Origin", "http://127.0.0.1:3000")},
		{"a page with https and the right host", header("Origin", "https://"+address.Host)},
		{"two origins, one of them right", func(r *http.Request) {
			r.Header["Origin"] = []string{"http://" + address.Host, "https://attacker.example"}
		}},
		{"an image or link of a page, which has no Origin", header("Sec-Fetch-Site", "cross-site")},
		{"a page that the proxy served itself", header("Sec-Fetch-Site", "same-origin")},
		{"an address typed into a browser", header("Sec-Fetch-Site", "none")},
		{"a WebSocket of a page", func(r *http.Request) {
			r.Header.Set("Origin", "https://attacker.example")
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "websocket")
		}},
		{"the right host with a dot at its end", func(r *http.Request) { r.Host = "localhost.:" + address.Port() }},
		{"the right host behind somebody's name", func(r *http.Request) { r.Host = "attacker.example@" + address.Host }},
		{"no secret", path("/wallets")},
		{"an empty secret", path("//wallets")},
		{"a wrong secret", path("/" + strings.Repeat("a", len(secret)) + "/wallets")},
		{"a part of the secret", path("/" + secret[:len(secret)-1] + "/wallets")},
		{"the secret and more", path("/" + secret + "a/wallets")},
		{"the secret in capitals", path("/" + strings.ToUpper(secret) + "/wallets")},
		{"the secret in the query", path("/wallets?" + secret)},
		{"the secret behind another part", path("/x/" + secret + "/wallets")},
		{"another host by an absolute address", path("http://attacker.example/" + secret + "/wallets")},
		{"the API itself by an absolute address", path(api.URL + "/" + secret + "/wallets")},
		{"dots that lead out", path("/" + secret + "/../wallets")},
		{"encoded dots", path("/" + secret + "/%2e%2e/wallets")},
		{"dots encoded twice", path("/" + secret + "/%252e%252e/wallets")},
		{"dots and backslashes", path("/" + secret + `/..%5cwallets`)},
		{"a login, whose answer holds a refresh token", path("/" + secret + "/users/login-anonymously")},
		{"a code, whose answer holds one", path("/" + secret + "/users/verify-login")},
		{"a refresh", path("/" + secret + "/users/refresh-token")},
		{"a refresh with a slash too many", path("/" + secret + "//users//refresh-token/")},
		{"a refresh in capitals", path("/" + secret + "/Users/Refresh-Token")},
		{"a refresh, encoded", path("/" + secret + "/users/%72efresh%2dtoken")},
		{"a refresh, encoded twice", path("/" + secret + "/users/refresh%252dtoken")},
		{"a refresh with a parameter", path("/" + secret + "/users/refresh-token;v=1")},
		{"a logout, which would leave the stored session behind", path("/" + secret + "/users/logout")},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t.Run(attack.name+", "+method, func(t *testing.T) {
				before := api.Stats().Requests
				status, body := b.get(t, "/wallets", func(r *http.Request) {
					r.Method = method
					attack.change(r)
				})
				if status != http.StatusForbidden {
					t.Errorf("answered %d %s", status, body)
				}
				if strings.Contains(body, secret) {
					t.Errorf("the answer holds the secret: %s", body)
				}
				if e := <-b.done; e.Refused == "" || e.Status != http.StatusForbidden || strings.Contains(e.Path+e.Refused, secret) {
					t.Errorf("logged %+v", e)
				}
				if got := api.Stats().Requests; got != before {
					t.Errorf("%d requests reached the API", got-before)
				}
			})
		}
	}
	if status, _ := b.get(t, "/wallets", nil); status != http.StatusOK {
		t.Errorf("the right request is answered %d", status)
	}
}

// What no client library sends, byte by byte.
func TestProxyRefusesRawRequests(t *testing.T) {
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	b := start(t, api)
	address, _ := url.Parse(b.URL())
	for name, row := range map[string]struct {
		request string
		status  int
	}{
		"a tunnel, which proxies of the network serve": {"CONNECT attacker.example:443 HTTP/1.1\r\nHost: attacker.example:443\r\n\r\n", http.StatusForbidden},
		"a tunnel to itself":                           {"CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n", http.StatusForbidden},
		"no host, as HTTP/1.0 allows":                  {"GET PATH/wallets HTTP/1.0\r\n\r\n", http.StatusForbidden},
		"two hosts, the first one right":               {"GET PATH/wallets HTTP/1.1\r\nHost: HOST\r\nHost: attacker.example\r\n\r\n", http.StatusBadRequest},
		"two lengths, to smuggle a second request":     {"POST PATH/wallets HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nhello", http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", address.Host)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, strings.NewReplacer("HOST", address.Host, "PATH", address.Path).Replace(row.request)); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Body.Close(); err != nil || resp.StatusCode != row.status {
				t.Errorf("%s, %v", resp.Status, err)
			}
		})
	}
	if got := api.Stats().Requests; got != 0 {
		t.Errorf("%d requests reached the API", got)
	}
}

// A request is served whichever of the right names it is sent to, and from
// clients that send the address they were given as their origin.
func TestProxyServes(t *testing.T) {
	b := start(t, walletauthtest.NewServer(walletauthtest.Config{TB: t}))
	address, _ := url.Parse(b.URL())
	for name, change := range map[string]func(*http.Request){
		"the address as it was printed": nil,
		"localhost":                     func(r *http.Request) { r.Host = "localhost:" + address.Port() },
		"LocalHost":                     func(r *http.Request) { r.Host = "LocalHost:" + address.Port() },
		"its own origin":                func(r *http.Request) { r.Header.Set("Origin", "http://"+address.Host) },
		"what Node's fetch sends":       func(r *http.Request) { r.Header.Set("Sec-Fetch-Mode", "cors") },
	} {
		t.Run(name, func(t *testing.T) {
			if status, body := b.get(t, "/wallets", change); status != http.StatusOK {
				t.Errorf("%d %s", status, body)
			}
		})
	}
}

// What the API gets is the session's and nothing of the caller's.
func TestProxyRemovesTheCallersCredentials(t *testing.T) {
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	var got http.Header
	api.Handle("GET /echo", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		w.Header().Set("Set-Cookie", "tracking=1")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("X-Other", "stays")
	}))
	b := start(t, api)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.URL()+"/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	mine := map[string]string{
		"Authorization": "Bearer mallory", "Proxy-Authorization": "Basic bWFsbG9yeQ==", "Cookie": "session=mallory",
		"X-API-Key": "mallory", "X-WalletKit-Project-ID": "mallory", "X-WalletKit-Token-Source": "firebase",
		"Referer": b.URL() + "/mallory", "Connection": "X-WalletKit-Token-Source",
	}
	for name, value := range mine {
		req.Header.Set(name, value)
	}
	req.Header.Set("X-Trace", "stays")
	client := &http.Transport{}
	defer client.CloseIdleConnections()
	resp, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	session := api.Sessions("ada")[0]
	want := map[string]string{
		"Authorization": "Bearer " + session.AccessToken, "Proxy-Authorization": "", "Cookie": "", "X-Api-Key": "",
		"X-Walletkit-Project-Id": "project", "X-Walletkit-Token-Source": "walletkit", "Referer": "", "X-Trace": "stays",
	}
	for name, value := range want {
		if v := got.Get(name); v != value {
			t.Errorf("%s: %q, want %q", name, v, value)
		}
	}
	for name, value := range map[string]string{"Set-Cookie": "", "Access-Control-Allow-Origin": "", "X-Other": "stays"} {
		if v := resp.Header.Get(name); v != value {
			t.Errorf("the answer's %s: %q, want %q", name, v, value)
		}
	}
}

// A redirect within the API stays with the proxy, which alone has the token; one
// to elsewhere is the client's own matter.
func TestProxyRedirects(t *testing.T) {
	for name, row := range map[string]struct{ location, want string }{
		"within the API":            {"/wallets?a=b", "PROXY/wallets?a=b"},
		"within, the whole address": {"API/wallets", "PROXY/wallets"},
		"to another host":           {"https://elsewhere.example/x", "https://elsewhere.example/x"},
	} {
		t.Run(name, func(t *testing.T) {
			api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
			b := start(t, api)
			full := func(s string) string {
				return strings.NewReplacer("API", api.URL, "PROXY", b.URL()).Replace(s)
			}
			api.Handle("GET /moved", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", full(row.location))
				w.WriteHeader(http.StatusFound)
			}))
			client := &http.Transport{}
			defer client.CloseIdleConnections()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.URL()+"/moved", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			got := resp.Header.Get("Location")
			if err := resp.Body.Close(); err != nil || got != full(row.want) {
				t.Errorf("Location %q, want %q; %v", got, full(row.want), err)
			}
		})
	}
}

// An API below a path: nothing beside it can be reached.
func TestProxyStaysBelowTheAPIsPath(t *testing.T) {
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	var paths []string
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.URL.Path)
		http.StripPrefix("/v1", api).ServeHTTP(w, r)
	}))
	defer front.Close()
	l, err := proxy.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := startAt(t, api, front.URL+"/v1", l)
	if status, body := b.get(t, "/wallets", nil); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := b.get(t, "/../admin", nil); status != http.StatusForbidden {
		t.Errorf("%d for a path beside the API", status)
	}
	if len(paths) != 1 || paths[0] != "/v1/wallets" {
		t.Errorf("the server saw %q", paths)
	}
}

// Each piece of a stream arrives before the next is sent.
func TestProxyStreams(t *testing.T) {
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	next := make(chan string)
	api.Handle("GET /events", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "14") // net/http flushes by itself only without
		for piece := range next {
			_, _ = io.WriteString(w, piece)
			_ = http.NewResponseController(w).Flush()
		}
	}))
	b := start(t, api)
	client := &http.Transport{}
	defer client.CloseIdleConnections()
	begun := make(chan *http.Response, 1)
	go func() {
		req, _ := http.NewRequest(http.MethodGet, b.URL()+"/events", nil)
		resp, err := client.RoundTrip(req)
		if err != nil {
			t.Error(err)
		}
		begun <- resp
	}()
	next <- "one\n"
	resp := <-begun
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewReader(resp.Body)
	for _, want := range []string{"one\n", "two\n", "three\n"} {
		got, err := lines.ReadString('\n')
		if err != nil || got != want {
			t.Fatalf("%q, %v, want %q", got, err, want)
		}
		if want != "three\n" {
			next <- map[string]string{"one\n": "two\n", "two\n": "three\n"}[want]
		}
	}
	close(next)
	if e := <-b.done; e.Bytes != 14 || e.Status != 200 {
		t.Errorf("logged %+v", e)
	}
}

// A WebSocket is a connection of its own after the handshake, in which the
// token goes.
func TestProxyPassesWebSockets(t *testing.T) {
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	api.Handle("GET /socket", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString("echo " + line)
		_ = rw.Flush()
	}))
	b := start(t, api)
	address, _ := url.Parse(b.URL())
	conn, err := net.Dial("tcp", address.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, "GET %s/socket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
		address.Path, address.Host, base64.StdEncoding.EncodeToString(make([]byte, 16)))
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || line != "echo hello\n" {
		t.Errorf("%q, %v", line, err)
	}
	if got := api.User("ada").Requests; got != 1 {
		t.Errorf("%d requests with ada's token, want 1", got)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if e := <-b.done; e.Status != http.StatusSwitchingProtocols || e.Path != "/socket" {
		t.Errorf("logged %+v", e)
	}
}

// A session that is over is a 401 with a sentence, an API that cannot be reached
// a 502: in the API's own form, so that its clients can read it.
func TestProxySaysWhatFailed(t *testing.T) {
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	b := start(t, api)
	expired := api.Login("ada")
	expired.AccessTokenExpiresAt = time.Now().Add(-time.Hour)
	if err := walletauth.Save(t.Context(), b.store, "", expired); err != nil {
		t.Fatal(err)
	}
	api.RevokeSessions("ada")
	status, body := b.get(t, "/wallets", nil)
	if status != http.StatusUnauthorized || body != `{"code":"walletauth","error":"log in"}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
	if err := walletauth.Save(t.Context(), b.store, "", api.Login("ada")); err != nil {
		t.Fatal(err)
	}
	api.Close()
	status, body = b.get(t, "/wallets", nil)
	if status != http.StatusBadGateway || body != `{"code":"walletauth","error":"try later"}`+"\n" {
		t.Errorf("%d %s", status, body)
	}
}

// The secret of each run is new, and long enough that nobody guesses it.
func TestProxySecretIsNewInEveryRun(t *testing.T) {
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	seen := map[string]bool{}
	for range 3 {
		address, _ := url.Parse(start(t, api).URL())
		if len(address.Path) != 1+26 { // 130 bits
			t.Errorf("the path is %q", address.Path)
		}
		seen[address.Path] = true
	}
	if len(seen) != 3 {
		t.Errorf("%d different secrets in 3 runs", len(seen))
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := proxy.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for name, row := range map[string]struct{ address, want string }{
		"all addresses are refused":            {"0.0.0.0:0", "can be reached from other machines: use 127.0.0.1:0"},
		"an empty host is refused":             {":8080", "can be reached from other machines"},
		"all IPv6 addresses are refused":       {"[::]:0", "can be reached from other machines"},
		"an address of the network is refused": {"192.168.1.1:0", "can be reached from other machines"},
		"a name is refused":                    {"walletkit.example:0", "can be reached from other machines"},
		"no port is refused":                   {"127.0.0.1", "is no address to listen at"},
		"a port in use is said to be":          {taken.Addr().String(), "is in use: choose another port"},
		"a file that is no socket is left":     {"unix:" + file, "is there already and no socket"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := proxy.Listen(row.address)
			if err == nil {
				_ = l.Close()
				t.Fatalf("%s listens", row.address)
			}
			if !strings.Contains(err.Error(), row.want) {
				t.Errorf("%q does not say %q", err, row.want)
			}
		})
	}
	addresses := []string{"127.0.0.1:0", "localhost:0"}
	if runtime.GOOS == "linux" { // elsewhere only 127.0.0.1 is there
		addresses = append(addresses, "127.1.2.3:0")
	}
	for _, address := range addresses {
		l, err := proxy.Listen(address)
		if err != nil {
			t.Fatal(err)
		}
		if tcp := l.Addr().(*net.TCPAddr); !tcp.IP.IsLoopback() {
			t.Errorf("%s listens at %v", address, tcp)
		}
		_ = l.Close()
	}
}

// Only this user can open the socket, whatever the umask, and what a program
// left behind that was killed does not stand in the way.
func TestProxyAtASocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("sockets are refused there")
	}
	dir, err := os.MkdirTemp("", "walletauth") // TempDir's paths may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if _, err := proxy.Listen("unix:" + filepath.Join(dir, "no", "socket")); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("in a missing folder: %v", err)
	}
	file := filepath.Join(dir, "socket")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: file, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := proxy.Listen("unix:" + file)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := proxy.Listen("unix:" + file); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("a second one: %v", err)
	}
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	b := startAt(t, api, api.URL, l)
	client := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", file)
	}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.URL()+"/wallets", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Error(resp.Status, err)
	}
}

// A client that leaves ends its request to the API, and is a line in the log.
func TestProxyEndsWhatItsClientLeft(t *testing.T) {
	api := walletauthtest.NewServer(walletauthtest.Config{TB: t})
	arrived, left := make(chan struct{}), make(chan struct{})
	api.Handle("GET /slow", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		close(left)
	}))
	b := start(t, api)
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL()+"/slow", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-arrived; leave() }()
	client := &http.Transport{}
	defer client.CloseIdleConnections()
	if resp, err := client.RoundTrip(req); err == nil {
		_ = resp.Body.Close()
		t.Error("the request was answered")
	}
	hang := time.After(time.Minute)
	select {
	case <-left:
	case <-hang:
		t.Fatal("the request to the API goes on")
	}
	if e := <-b.done; e.Path != "/slow" || e.Status != 0 {
		t.Errorf("logged %+v", e)
	}
}
