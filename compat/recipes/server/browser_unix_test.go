//go:build unix

package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// driver uses walletkit.js as the page does, and reports what its calls came to:
// two at once, two at once after the API has revoked the token, one after the token
// has expired, and one after the logout, when the page has to ask the server.
const driver = `<!DOCTYPE html><script type="module">
import {walletKit} from "/walletkit.js";
const post = (path, body) => fetch(path, {method: "POST", body});
const now = Date.now;
const did = [];
try {
  const api = walletKit(%q);
  const list = async () => did.push((await api("/wallets")).status);
  await post("/login");
  await Promise.all([list(), list()]);
  await post("/test/revoke");
  await Promise.all([list(), list()]);
  await post("/test/expire");
  Date.now = () => now() + 6 * 60000;
  await list();
  await post("/logout");
  Date.now = () => now() + 60 * 60000;
  await list();
} catch (err) {
  did.push(err.message.trim());
}
await post("/test/report", did.join(", "));
</script>`

// A page in a real browser calls the API of another origin through expiry and
// revocation, and gets the server's sentence when nobody is logged in.
func TestBrowser(t *testing.T) {
	browser := find(t, "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
	site := httptest.NewUnstartedServer(nil)
	mock := clock.NewMock()
	mock.Set(time.Now())
	api := walletauthtest.NewServer(walletauthtest.Config{
		ProjectID: "my-project", Clock: mock, TB: t, CORS: []string{"http://" + site.Listener.Addr().String()},
	})
	transport := &walletauth.Transport{
		Store: &walletauth.MemoryStore{}, ProjectID: "my-project", BaseURL: api.URL, Clock: mock,
	}
	s := &server{transport: transport, client: &http.Client{Transport: transport}, api: api.URL}

	reported := make(chan string, 1)
	mux := http.NewServeMux()
	mux.Handle("/", s.handler(prometheus.NewRegistry()))
	mux.HandleFunc("GET /test", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, driver, api.URL) // fails if the browser has left
	})
	mux.HandleFunc("POST /test/revoke", func(_ http.ResponseWriter, r *http.Request) {
		if session, err := transport.Store.Load(r.Context(), visitorKey(r)); err == nil {
			api.RevokeAccess(session.UserID)
		}
	})
	mux.HandleFunc("POST /test/expire", func(http.ResponseWriter, *http.Request) { mock.Add(6 * time.Minute) })
	mux.HandleFunc("POST /test/report", func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // what there is
		reported <- string(body)
	})
	site.Config.Handler = mux
	site.Start()
	defer site.Close()

	output := browse(t, browser, site.URL+"/test")
	const want = "200, 200, 200, 200, 200, Log in to see your wallets."
	select {
	case got := <-reported:
		if got != want {
			t.Errorf("the page's calls: %q, want %q", got, want)
		}
	case <-time.After(2 * time.Minute):
		t.Fatalf("the page does not report:\n%s", output())
	}
	if refreshes, requests := api.Stats().Refreshes, api.Requests(walletauthtest.ListWallets); refreshes != 2 || requests != 7 {
		t.Errorf("%d refreshes and %d requests, want 2 and 7: 5, of which the API refused 2 once", refreshes, requests)
	}
}

// browse opens a page in a browser without a window, until the test ends.
func browse(t *testing.T, browser, url string) (output func() string) {
	t.Helper()
	var log strings.Builder
	cmd := exec.CommandContext(t.Context(), browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--user-data-dir="+t.TempDir(), "--remote-debugging-port=0", url)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that its children and those of a wrapper end with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		_ = cmd.Cancel() // it may have ended
		_ = cmd.Wait()   // it was killed
	})
	t.Cleanup(stop)
	return func() string { stop(); return log.String() }
}
