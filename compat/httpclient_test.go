package compat

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// headerLog notes a header of the requests that come by.
type headerLog struct {
	mu   sync.Mutex // guards seen
	seen []string
}

func (l *headerLog) note(value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, value)
}

// What http.Client adds works as ever: its Jar, which sees the answers as they
// are, and redirects. One within the API is followed with the token, one to
// another host without it.
func TestClientWithTimeoutJarAndRedirects(t *testing.T) {
	api := newStandIn(t)
	var cookies, strangers headerLog
	stranger := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		strangers.note(r.Header.Get("Authorization"))
	}))
	defer stranger.Close()
	api.Handle("GET /old", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cookies.note(r.Header.Get("Cookie"))
		http.SetCookie(w, &http.Cookie{Name: "route", Value: "7"})
		http.Redirect(w, r, "/wallets", http.StatusFound)
	}))
	api.Handle("GET /elsewhere", http.RedirectHandler(stranger.URL, http.StatusFound))

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: api.transport(), Timeout: time.Minute, Jar: jar}
	api.outlive(t, func(ctx context.Context) error {
		return errors.Join(api.get(ctx, client, "/old"), api.get(ctx, client, "/elsewhere"))
	})
	if want := []string{"", "route=7", "route=7", "route=7", "route=7"}; !slices.Equal(cookies.seen, want) {
		t.Errorf("cookies %q, want %q", cookies.seen, want)
	}
	if want := make([]string, 5); !slices.Equal(strangers.seen, want) {
		t.Errorf("the other host got %q", strangers.seen)
	}
}

// Care: Timeout bounds a call with all that happens in it, a refresh that it
// waits for included. It ends the call and not the refresh, whose new session
// serves the others and the next call.
func TestTimeoutEndsTheCallAndNotTheRefresh(t *testing.T) {
	api := newStandIn(t)
	transport := api.transport()
	hasty := &http.Client{Transport: transport, Timeout: 50 * time.Millisecond}
	patient := &http.Client{Transport: transport}

	api.clock.Add(lifetime + time.Second)
	release := make(chan struct{})
	api.FailRefresh(1, walletauthtest.Fault{Do: func(*http.Request) { <-release }}) // held, then served
	var timeout net.Error
	if err := api.get(t.Context(), hasty, "/wallets"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v, want a timeout", err)
	}
	close(release)
	if err := api.get(t.Context(), patient, "/wallets"); err != nil {
		t.Error(err)
	}
	if n := api.Stats().Refreshes; n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
}

// Clients with different settings share a Transport. All of them together
// refresh once.
func TestSeveralClientsOverOneTransport(t *testing.T) {
	api := newStandIn(t)
	transport := api.transport()
	clients := make([]*http.Client, 10)
	for i := range clients {
		clients[i] = &http.Client{Transport: transport, Timeout: time.Duration(i+1) * time.Minute}
	}
	api.outlive(t, func(ctx context.Context) error {
		return atOnce(clients, func(c *http.Client) error { return api.get(ctx, c, "/wallets") })
	})
}

// Transports of libraries that do not know of each other, or of several processes,
// need the same store: one of them refreshes, the others use what it has stored.
//
// Care: the same session copied into two stores is two clients that send the same
// refresh token. The second one to do so may end the session.
func TestSeveralTransportsOverOneStore(t *testing.T) {
	api := newStandIn(t)
	clients := make([]*http.Client, 10)
	var events eventCount
	for i := range clients {
		transport := api.transport()
		transport.OnEvent = events.add
		clients[i] = &http.Client{Transport: transport}
	}
	api.outlive(t, func(ctx context.Context) error {
		return atOnce(clients, func(c *http.Client) error { return api.get(ctx, c, "/wallets") })
	})
	if n := events.of(walletauth.RefreshSucceeded); n != troubles {
		t.Errorf("%d refreshes reported, want %d", n, troubles)
	}
}

// eventCount counts events.
type eventCount struct {
	mu sync.Mutex // guards n
	n  map[walletauth.EventType]int
}

func (c *eventCount) add(_ context.Context, e walletauth.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[walletauth.EventType]int)
	}
	c.n[e.Type]++
}

func (c *eventCount) of(what walletauth.EventType) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[what]
}
