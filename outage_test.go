package walletauth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/walletauth/walletauth"
)

var errDown = errors.New("the database is down")

// newOutage returns a kept that captures logins, and what makes its store fail
// with the error, nil to end that.
func newOutage(t *testing.T, change ...func(*kept)) (k *kept, fail func(error)) {
	st := newKeptStore()
	k = newKept(t, append(change, st.in, func(k *kept) { k.CaptureLogin, k.ProjectID = true, "project" })...)
	return k, func(err error) {
		hook := func() error { return err }
		if err == nil {
			hook = nil
		}
		st.set(func(st *keptStore) { st.load, st.before = hook, hook })
	}
}

// post sends a POST without a body for the key of ctx.
func (k *kept) post(ctx context.Context, path string, header http.Header) {
	k.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.BaseURL+path, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := k.RoundTrip(req)
	if err != nil {
		k.t.Fatal(err)
	}
	if _ = resp.Body.Close(); resp.StatusCode/100 != 2 {
		k.t.Fatalf("POST %s: status %d", path, resp.StatusCode)
	}
}

// mark returns a function that demands that no request with a token has reached
// the base transport since.
func (k *kept) mark() (sentNothing func(t *testing.T)) {
	none := "none"
	k.bearer.Store(&none)
	return func(t *testing.T) {
		t.Helper()
		if *k.bearer.Load() != none {
			t.Error("a request went out with a token")
		}
	}
}

func TestStoreOutage(t *testing.T) {
	inBubble(t, "leaves the sessions of 1,024 keys in use", func(t *testing.T) {
		k, fail := newOutage(t)
		sessions := map[string]*walletauth.Session{}
		for i := range 1024 {
			key := fmt.Sprint(i)
			sessions[key] = k.login(key, "user "+key)
			if _, err := k.get(walletauth.WithKey(t.Context(), key)); err != nil {
				t.Fatal(err)
			}
		}
		fail(errDown)
		served := 0
		for key, s := range sessions {
			if _, err := k.get(walletauth.WithKey(t.Context(), key)); err == nil {
				k.wentOutWith(s)
				served++
			}
		}
		if served != 1024 {
			t.Errorf("%d keys were served, want 1024", served)
		}
	})
	inBubble(t, "uses the token that a refresh behind a request has brought", func(t *testing.T) {
		k, fail := newOutage(t)
		k.at(4*time.Minute + 46*time.Second)
		k.works(0)
		synctest.Wait()
		k.sent(1)
		next := k.stored()
		fail(errDown)
		k.at(5*time.Minute + time.Second)
		k.works(0)
		k.wentOutWith(next)
	})
	inBubble(t, "uses the token that KeepAlive has brought", func(t *testing.T) {
		k, fail := newOutage(t)
		k.keepAlive()
		k.at(4*time.Minute + 58*time.Second)
		synctest.Wait()
		k.sent(1)
		next := k.stored()
		fail(errDown)
		k.at(5*time.Minute + time.Second)
		k.works(0)
		k.wentOutWith(next)
	})
	inBubble(t, "uses the token that mended a 401", func(t *testing.T) {
		k, fail := newOutage(t)
		k.srv.RevokeAccess("user")
		k.works(0)
		fail(errDown)
		k.works(0)
		k.sent(1)
	})
	inBubble(t, "uses a login that was captured, not the user before", func(t *testing.T) {
		k, fail := newOutage(t)
		k.works(0)
		k.post(t.Context(), "/users/login-anonymously", nil)
		captured := k.stored()
		fail(errDown)
		k.works(0)
		k.wentOutWith(captured)
	})
	inBubble(t, "uses the session of another user that was seen", func(t *testing.T) {
		k, fail := newOutage(t)
		k.works(0)
		other := k.login("", "other")
		k.works(0)
		fail(errDown)
		k.works(0)
		k.wentOutWith(other)
	})
	for name, logout := range map[string]func(*kept){
		"by a captured logout": func(k *kept) { k.post(k.t.Context(), "/users/logout", nil) },
		"by a captured logout with the caller's own token": func(k *kept) {
			k.post(k.t.Context(), "/users/logout", http.Header{
				"Authorization": {"Bearer " + k.first.AccessToken}, "X-Walletkit-Token-Source": {"walletkit"},
			})
		},
		"by Logout": func(k *kept) {
			if err := k.Logout(k.t.Context()); err != nil {
				k.t.Fatal(err)
			}
		},
		"by another process, as a request has seen": func(k *kept) {
			k.without()
			if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
				k.t.Fatal(err)
			}
		},
		"by another process, as Session has seen": func(k *kept) {
			k.without()
			if _, err := k.Session(k.t.Context()); !errors.Is(err, walletauth.ErrNoSession) {
				k.t.Fatal(err)
			}
		},
		"by another process, as Status has seen": func(k *kept) {
			k.without()
			if st, err := k.Status(k.t.Context()); err != nil || st.Session != nil {
				k.t.Fatal(st, err)
			}
		},
	} {
		inBubble(t, "brings nobody back who was logged out "+name, func(t *testing.T) {
			k, fail := newOutage(t)
			k.works(0)
			logout(k)
			fail(errDown)
			sentNothing := k.mark()
			for range 3 {
				_ = k.fails(0)
			}
			if s, err := k.Session(t.Context()); err == nil {
				t.Errorf("Session returned %v", s)
			}
			sentNothing(t)
		})
	}
	inBubble(t, "ends the session that ended before it", func(t *testing.T) {
		k, fail := newOutage(t)
		k.srv.RevokeSessions("user")
		_, _ = k.get(t.Context()) // whose 401 says so
		fail(errDown)
		sentNothing := k.mark()
		_ = k.fails(0)
		sentNothing(t)
	})
	inBubble(t, "lends no key the session of another", func(t *testing.T) {
		k, fail := newOutage(t)
		k.login("b", "other")
		k.works(0)
		fail(errDown)
		sentNothing := k.mark()
		if _, err := k.get(walletauth.WithKey(t.Context(), "b")); !errors.Is(err, errDown) {
			t.Errorf("%v, want the store's error", err)
		}
		sentNothing(t)
	})
	inBubble(t, "is a StoreError where no session is at hand", func(t *testing.T) {
		k, fail := newOutage(t)
		fail(errDown)
		wantStoreError(t, k.fails(0), "load", errDown)
		_, err := k.Session(t.Context())
		wantStoreError(t, err, "load", errDown)
	})
	inBubble(t, "is a StoreError once the token has expired", func(t *testing.T) {
		k, fail := newOutage(t)
		k.works(0)
		fail(errDown)
		k.at(5*time.Minute - 1)
		k.works(0)
		k.at(5 * time.Minute)
		err := k.fails(0)
		var failed *walletauth.StoreError
		if !errors.As(err, &failed) || !errors.Is(err, errDown) {
			t.Errorf("%v, want a StoreError", err)
		}
		k.sent(0)
	})
	inBubble(t, "is over as soon as the store answers", func(t *testing.T) {
		k, fail := newOutage(t)
		k.works(0)
		fail(errDown)
		k.works(0)
		other := k.srv.Login("other")
		fail(nil)
		if err := walletauth.Save(t.Context(), k.Store, "", other); err != nil {
			t.Fatal(err)
		}
		k.works(0)
		k.wentOutWith(other)
	})
}

// without deletes the session past the Transport, as another process does.
func (k *kept) without() {
	k.t.Helper()
	if err := walletauth.Delete(k.t.Context(), k.Store, ""); err != nil {
		k.t.Fatal(err)
	}
}

// wantStoreError demands a StoreError of op around cause.
func wantStoreError(t *testing.T, err error, op string, cause error) {
	t.Helper()
	var failed *walletauth.StoreError
	if !errors.As(err, &failed) {
		t.Errorf("%v, want a StoreError", err)
		return
	}
	if failed.Op != op || !errors.Is(failed.Err, cause) || !errors.Is(err, cause) {
		t.Errorf("%v of %q, want %q and %v", err, failed.Op, op, cause)
	}
	if strings.Count(err.Error(), "walletauth: ") != 1 {
		t.Errorf("%v, want the package's name once", err)
	}
}

// What cannot be read may be the login of somebody else.
func TestUnreadableSession(t *testing.T) {
	inBubble(t, "is no outage: nothing that is remembered serves", func(t *testing.T) {
		k, fail := newOutage(t)
		k.works(0)
		fail(fmt.Errorf("open the row: %w", walletauth.ErrUnreadable))
		sentNothing := k.mark()
		if err := k.fails(0); !errors.Is(err, walletauth.ErrUnreadable) {
			t.Errorf("%v, want ErrUnreadable", err)
		}
		if _, err := k.Session(t.Context()); !errors.Is(err, walletauth.ErrUnreadable) {
			t.Errorf("Session: %v, want ErrUnreadable", err)
		}
		sentNothing(t)
		fail(nil)
		k.works(0)
	})
	for name, err := range map[string]error{"is not \"log in\"": walletauth.ErrNoSession, "is not the end of the session": walletauth.ErrSessionExpired} {
		inBubble(t, name, func(t *testing.T) {
			k, fail := newOutage(t)
			fail(walletauth.ErrUnreadable)
			if got := k.fails(0); errors.Is(got, err) {
				t.Errorf("%v wraps %v", got, err)
			}
		})
	}
	inBubble(t, "gives way to a captured login", func(t *testing.T) {
		row := newUnreadableRow()
		k := newKept(t, func(k *kept) { k.Store, k.CaptureLogin, k.ProjectID = row.store(), true, "project" })
		row.spoil()
		k.post(t.Context(), "/users/login-anonymously", nil)
		k.works(0)
		k.wentOutWith(k.stored())
	})
	inBubble(t, "gives way to Logout", func(t *testing.T) {
		row := newUnreadableRow()
		k := newKept(t, func(k *kept) { k.Store = row.store() })
		row.spoil()
		if err := k.Logout(t.Context()); err != nil {
			t.Error(err)
		}
		if err := k.fails(0); !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("%v, want ErrNoSession", err)
		}
	})
	t.Run("is what a codec says of data that it cannot read", func(t *testing.T) {
		sealed, err := walletauth.NewSealedCodec([]byte("0123456789abcdef0123456789abcdef"))
		if err != nil {
			t.Fatal(err)
		}
		another, err := walletauth.NewSealedCodec([]byte("another key, of thirty-two bytes"))
		if err != nil {
			t.Fatal(err)
		}
		s := secretSession()
		s.RefreshToken = "refresh"
		foreign, err := another.Encode("key", &s)
		if err != nil {
			t.Fatal(err)
		}
		for name, codec := range map[string]walletauth.Codec{"JSON": walletauth.JSONCodec{}, "sealed": sealed} {
			for _, data := range [][]byte{nil, []byte("{}"), []byte("no JSON"), foreign} {
				if _, err := codec.Decode("key", data); !errors.Is(err, walletauth.ErrUnreadable) {
					t.Errorf("%s: %v, want ErrUnreadable", name, err)
				}
			}
		}
	})
}

// unreadableRow is a program's table of one row, which may be damaged.
type unreadableRow struct {
	table
	damaged atomic.Bool
	loads   atomic.Int32
}

func newUnreadableRow() *unreadableRow { return &unreadableRow{} }

func (r *unreadableRow) spoil() { r.damaged.Store(true) }

func (r *unreadableRow) store() *walletauth.FuncStore {
	return &walletauth.FuncStore{
		LoadFunc: func(ctx context.Context, key string) (*walletauth.Session, error) {
			r.loads.Add(1)
			if r.damaged.Load() {
				return nil, fmt.Errorf("row of %q: %w", key, walletauth.ErrUnreadable)
			}
			return r.get(ctx, key)
		},
		SaveFunc: func(ctx context.Context, key string, s *walletauth.Session) error {
			r.damaged.Store(false)
			return r.set(ctx, key, s)
		},
	}
}

// A Load that began before a logout or a login may end after it.
func TestLoadOfAnOlderSession(t *testing.T) {
	for name, change := range map[string]func(k *kept){
		"is not remembered past a captured logout": func(k *kept) { k.post(k.t.Context(), "/users/logout", nil) },
		"is not remembered past Logout":            func(k *kept) { _ = k.Logout(k.t.Context()) },
		"is not remembered past a captured login": func(k *kept) {
			k.post(k.t.Context(), "/users/login-anonymously", nil)
		},
	} {
		inBubble(t, name, func(t *testing.T) {
			var tb table
			var slow, down atomic.Bool
			load := func(ctx context.Context, key string) (*walletauth.Session, error) {
				if down.Load() {
					return nil, errDown
				}
				s, err := tb.get(ctx, key)
				if slow.CompareAndSwap(true, false) {
					time.Sleep(time.Second)
				}
				return s, err
			}
			k := newKept(t, func(k *kept) {
				k.Store = &walletauth.FuncStore{LoadFunc: load, SaveFunc: tb.set}
				k.CaptureLogin, k.ProjectID = true, "project"
			})
			k.works(0)
			slow.Store(true)
			late := make(chan error)
			go func() { _, err := k.get(t.Context()); late <- err }()
			synctest.Wait() // in Load, with the session of user
			change(k)
			<-late // whatever became of it
			now, _ := tb.get(t.Context(), "")
			down.Store(true)
			sentNothing := k.mark()
			_, err := k.get(t.Context())
			switch {
			case now != nil && err == nil:
				k.wentOutWith(now)
			case now == nil && err == nil:
				t.Error("a request went out as the user who logged out")
			case now == nil:
				sentNothing(t)
			default:
				t.Error(err)
			}
		})
	}
}
