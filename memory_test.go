package walletauth_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
)

// crowd is a store of any number of users that takes no memory: it makes up
// their sessions, which all began at the same time.
type crowd struct{ began time.Time }

func (c crowd) Load(_ context.Context, key string) (*walletauth.Session, error) {
	return &walletauth.Session{
		ID: "session " + key, CreatedAt: c.began, ProjectID: "project", UserID: "user " + key,
		AccessToken: "access token of " + key, AccessTokenExpiresAt: c.began.Add(5 * time.Minute),
		RefreshToken: "refresh token of " + key, RefreshTokenExpiresAt: c.began.Add(30 * 24 * time.Hour),
	}, nil
}

func (c crowd) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	s, _ := c.Load(ctx, key)
	_, err := fn(ctx, s)
	return err
}

// each sends a request for each of the keys from first to before last.
func each(t *testing.T, tr *walletauth.Transport, first, last int, path string) {
	t.Helper()
	for i := first; i < last; i++ {
		if i%100 == 0 {
			synctest.Wait() // the more goroutines at once, the more stays allocated for them
		}
		req, err := http.NewRequestWithContext(walletauth.WithKey(t.Context(), fmt.Sprint(i)), http.MethodGet, "https://walletkit.test"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := tr.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	}
	synctest.Wait()
}

// heapNow is what is left on the heap after collection.
func heapNow() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What failed once is of no consequence a day later.
func TestKeysThatFailedOnce(t *testing.T) {
	answer := func(err error) walletauth.Refresher {
		return refreshFunc(func(context.Context, *walletauth.Session) (*walletauth.Session, error) { return nil, err })
	}
	for name, c := range map[string]struct {
		refresher walletauth.Refresher
		status    int           // of all requests
		age       time.Duration // of the sessions
		keys      int
	}{
		"to refresh":                   {answer(&walletauth.RefreshError{StatusCode: 404}), 200, 5 * time.Minute, 30_000},
		"to refresh, with Retry-After": {answer(&walletauth.RefreshError{StatusCode: 404, RetryAfter: time.Hour}), 200, 5 * time.Minute, 5_000},
		"to refresh ahead of time":     {answer(&walletauth.RefreshError{StatusCode: 404}), 200, late, 5_000},
		"by a 401 that was not mended": {answer(&walletauth.RefreshError{StatusCode: 404}), 401, time.Minute, 5_000},
		"by an endpoint that refuses":  {&issuerOfAll{}, 401, time.Minute, 5_000},
	} {
		inBubble(t, name+" use no memory a day later", func(t *testing.T) {
			var warm atomic.Bool
			tr := &walletauth.Transport{Store: crowd{time.Now()}, BaseURL: "https://walletkit.test", Refresher: c.refresher, Base: roundTripFunc(func(*http.Request) (*http.Response, error) {
				if !warm.Load() {
					return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
				}
				return &http.Response{StatusCode: c.status, Body: http.NoBody}, nil
			})}
			each(t, tr, c.keys, c.keys+20_000, "/") // fills what is remembered within bounds
			warm.Store(true)
			before := heapNow()
			time.Sleep(c.age)
			each(t, tr, 0, c.keys, "/")
			for range 2 {
				time.Sleep(24 * time.Hour)
				each(t, tr, c.keys, c.keys+100, "/") // who comes later clears up
			}
			if grown := heapNow() - before; grown > max(int64(16*c.keys), 256<<10) {
				t.Errorf("the heap has grown by %d bytes, %d for each key", grown, grown/int64(c.keys))
			}
			runtime.KeepAlive(tr)
			if err := tr.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// issuerOfAll gives every user a new token.
type issuerOfAll struct{}

func (*issuerOfAll) Refresh(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
	next := *s
	next.AccessToken += "'"
	next.AccessTokenExpiresAt = time.Now().Add(5 * time.Minute)
	return &next, nil
}

func TestKeysThatWereUsed(t *testing.T) {
	inBubble(t, "leave only a bounded memory", func(t *testing.T) {
		const first, all = 50_000, 200_000
		tr := &walletauth.Transport{Store: crowd{time.Now()}, BaseURL: "https://walletkit.test", Base: roundTripFunc(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
		})}
		each(t, tr, 0, first, "/")
		before := heapNow()
		each(t, tr, first, all, "/")
		if grown := heapNow() - before; grown > 4<<20 {
			t.Errorf("%d more keys have taken %d bytes", all-first, grown)
		}
		runtime.KeepAlive(tr)
	})
}
