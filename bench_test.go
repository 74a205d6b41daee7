package walletauth_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// idleBase answers at once and costs nothing.
type idleBase struct{ resp http.Response }

func (b *idleBase) RoundTrip(*http.Request) (*http.Response, error) { return &b.resp, nil }

func newIdleBase() *idleBase {
	return &idleBase{http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Header: http.Header{}}}
}

// lasting is a session that no benchmark outlives.
func lasting(user string) *walletauth.Session {
	now := time.Now()
	return &walletauth.Session{
		ID: "session-of-" + user, CreatedAt: now, ProjectID: "project", UserID: user,
		AccessToken: "access-token-of-" + user, AccessTokenExpiresAt: now.Add(24 * time.Hour),
		RefreshToken: "refresh-token-of-" + user, RefreshTokenExpiresAt: now.Add(240 * time.Hour),
	}
}

// requestWith returns a request to /wallets with n header fields.
func requestWith(ctx context.Context, n int) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, walletauth.Testnet+"/wallets", nil)
	if err != nil {
		panic(err)
	}
	for i := range n {
		req.Header.Set(fmt.Sprintf("Field-%d", i), "value")
	}
	return req
}

// copyAndSet is the least that an auth transport can do: it copies the request
// and its header map and sets the same three fields.
type copyAndSet struct {
	base  http.RoundTripper
	names [3]string
	value []string
}

func (c *copyAndSet) RoundTrip(req *http.Request) (*http.Response, error) {
	out := req.WithContext(req.Context())
	out.Header = make(http.Header, len(req.Header)+len(c.names))
	for name, values := range req.Header {
		out.Header[name] = values
	}
	for _, name := range c.names {
		out.Header[name] = c.value
	}
	return c.base.RoundTrip(out)
}

// BenchmarkRequest is what a request costs whose token is fresh, beside the
// bare copy. Go's smallest map holds eight fields: with five of the caller's
// and three of ours it is one allocation, with six it has to be a table.
func BenchmarkRequest(b *testing.B) {
	for _, fields := range []int{5, 6} {
		for _, sessions := range []int{1, 1000} {
			b.Run(fmt.Sprintf("fields=%d/sessions=%d", fields, sessions), func(b *testing.B) {
				requests, tr := requestsOf(b, fields, sessions)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					send(b, tr, requests[i%sessions])
				}
			})
		}
		b.Run(fmt.Sprintf("fields=%d/copy", fields), func(b *testing.B) {
			rt := &copyAndSet{newIdleBase(), [3]string{"Authorization", "X-Walletkit-Project-Id", "X-Walletkit-Token-Source"}, []string{"value"}}
			req := requestWith(b.Context(), fields)
			b.ReportAllocs()
			for b.Loop() {
				send(b, rt, req)
			}
		})
	}
}

func requestsOf(tb testing.TB, fields, sessions int) ([]*http.Request, http.RoundTripper) {
	store := &walletauth.MemoryStore{}
	requests := make([]*http.Request, sessions)
	for i := range requests {
		key := fmt.Sprint("user-", i)
		if err := walletauth.Save(tb.Context(), store, key, lasting(key)); err != nil {
			tb.Fatal(err)
		}
		requests[i] = requestWith(walletauth.WithKey(tb.Context(), key), fields)
	}
	return requests, &walletauth.Transport{Store: store, Base: newIdleBase()}
}

func send(tb testing.TB, rt http.RoundTripper, req *http.Request) {
	if _, err := rt.RoundTrip(req); err != nil {
		tb.Fatal(err)
	}
}

func BenchmarkRequestParallel(b *testing.B) {
	requests, tr := requestsOf(b, 5, 1)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			send(b, tr, requests[0])
		}
	})
}

// TestRequestAllocations fails when the path of a plain request grows. Go's
// smallest map holds eight fields; a ninth costs two allocations, in the bare
// copy just as here.
func TestRequestAllocations(t *testing.T) {
	for _, row := range []struct {
		promise          string
		fields, sessions int
		want             float64
	}{
		{"one session, three allocations: request, map and its fields", 5, 1, 3},
		{"a thousand sessions, no more", 5, 1000, 3},
		{"a ninth field makes the map a table", 6, 1, 5},
	} {
		t.Run(row.promise, func(t *testing.T) {
			requests, tr := requestsOf(t, row.fields, row.sessions)
			for _, req := range requests { // whose sessions are remembered then
				send(t, tr, req)
			}
			i := 0
			got := testing.AllocsPerRun(1000, func() {
				send(t, tr, requests[i%row.sessions])
				i++
			})
			if got != row.want {
				t.Errorf("%v allocations per request, want %v", got, row.want)
			}
		})
	}
}

// slowRefresher takes its time and counts.
type slowRefresher struct {
	delay time.Duration
	sent  atomic.Int64
}

func (r *slowRefresher) Refresh(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	n := r.sent.Add(1)
	<-time.After(r.delay)
	next := *s
	next.AccessToken = fmt.Sprint("access-", n)
	next.RefreshToken = fmt.Sprint("refresh-", n)
	next.AccessTokenExpiresAt = time.Now().Add(time.Hour)
	return &next, nil
}

// BenchmarkExpiry is 10,000 callers that meet an expired token at once: how
// many refreshes were sent, and how long after the refresh's own time the last
// caller was served.
func BenchmarkExpiry(b *testing.B) {
	const callers, delay = 10_000, 50 * time.Millisecond
	var refreshes int64
	var beyond time.Duration
	for b.Loop() {
		store := &walletauth.MemoryStore{}
		stale := lasting("user")
		stale.AccessTokenExpiresAt = time.Now().Add(-time.Minute)
		if err := walletauth.Save(b.Context(), store, "", stale); err != nil {
			b.Fatal(err)
		}
		refresher := &slowRefresher{delay: delay}
		tr := &walletauth.Transport{Store: store, Base: newIdleBase(), Refresher: refresher}
		start := time.Now()
		var served sync.WaitGroup
		for range callers {
			served.Go(func() { send(b, tr, requestWith(b.Context(), 5)) })
		}
		served.Wait()
		beyond += time.Since(start) - delay
		refreshes += refresher.sent.Load()
	}
	b.ReportMetric(float64(refreshes)/float64(b.N), "refreshes/op")
	b.ReportMetric(float64(beyond.Milliseconds())/float64(b.N), "ms-beyond-refresh/op")
}

// BenchmarkMemory is what a session costs in a MemoryStore beyond its strings,
// and what a Transport keeps of a user after use.
func BenchmarkMemory(b *testing.B) {
	const users = 100_000
	for b.Loop() {
		sessions := make([]*walletauth.Session, users)
		keys := make([]string, users)
		for i := range sessions {
			keys[i] = fmt.Sprint("user-", i)
			sessions[i] = lasting(keys[i])
		}
		before := heap()
		store := &walletauth.MemoryStore{}
		for i, s := range sessions {
			if err := walletauth.Save(b.Context(), store, keys[i], s); err != nil {
				b.Fatal(err)
			}
		}
		stored := heap()
		b.ReportMetric(float64(stored-before)/users, "B/session")

		tr := &walletauth.Transport{Store: store, Base: newIdleBase()}
		for _, key := range keys {
			send(b, tr, requestWith(walletauth.WithKey(b.Context(), key), 5))
		}
		b.ReportMetric(float64(heap()-stored)/users, "B-kept/user")
		runtime.KeepAlive(sessions)
		runtime.KeepAlive(keys)
		runtime.KeepAlive(tr)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
