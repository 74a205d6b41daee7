package walletauth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// A Date that is wrong by years, of a proxy or a firewall, may cost refreshes
// but never the session.
func TestAWrongDateCostsNoSession(t *testing.T) {
	wrong := http.Header{"Date": {"Fri, 31 Dec 2100 23:59:59 GMT"}}
	for name, first := range map[string]answer{
		"of an answer to a refresh that failed": {status: 503, header: wrong},
		"of a page of a firewall":               {status: 403, header: wrong, body: []byte("<html>")},
		"of the new session itself":             {status: 200, header: wrong, body: encoded(t, freshSession())},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { checkWrongDate(t, first) })
		})
	}
}

func checkWrongDate(t *testing.T, first answer) {
	expired, store := freshSession(), &walletauth.MemoryStore{}
	expired.AccessToken, expired.RefreshToken, expired.AccessTokenExpiresAt = "old", "old", expired.CreatedAt
	if err := walletauth.Save(t.Context(), store, "", expired); err != nil {
		t.Fatal(err)
	}
	refreshes := 0
	tr := &walletauth.Transport{Store: store, RefreshTimeout: time.Millisecond, Base: roundTripFunc(func(req *http.Request) (*http.Response, error) {
		if !strings.HasSuffix(req.URL.Path, "/users/refresh-token") {
			return answer{status: 200}.response(), nil
		}
		if refreshes++; refreshes == 1 {
			return first.response(), nil
		}
		return answer{status: 200, body: encoded(t, freshSession())}.response(), nil
	})}
	_, err := tr.RoundTrip(mustRequest(t, http.MethodGet, "/wallets"))
	if (err == nil) != (first.status == 200) {
		t.Errorf("the first request: %v", err)
	}
	time.Sleep(time.Minute) // of the bubble, for the cool-down
	if _, err := tr.RoundTrip(mustRequest(t, http.MethodGet, "/wallets")); err != nil {
		t.Errorf("a request later: %v", err)
	}
	if s, err := store.Load(t.Context(), ""); err != nil || *s != *freshSession() {
		t.Errorf("stored %v, %v", s, err)
	}
}

// dated replaces the Date field of each response; "" removes it.
func dated(date func() string) func(*kept) {
	return func(k *kept) {
		k.edit(func(_ *http.Request, resp *http.Response) {
			resp.Header.Del("Date")
			if d := date(); d != "" {
				resp.Header.Set("Date", d)
			}
		})
	}
}

func noDate() string { return "" }

// dateOff is the right date but for d.
func dateOff(d time.Duration) func() string {
	return func() string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
}

// ownRefresher sends refreshes past the Transport, which so sees no Date.
func ownRefresher(k *kept) {
	k.Refresher = refreshFunc(func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		body := fmt.Sprintf(`{"session_id":%q,"refresh_token":%q}`, s.ID, s.RefreshToken)
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, k.srv.URL+"/users/refresh-token", strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header = http.Header{"Content-Type": {"application/json"}, "X-Walletkit-Project-Id": {s.ProjectID}}
		resp, err := k.srv.RoundTripper().RoundTrip(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("status %d: %w", resp.StatusCode, walletauth.ErrSessionExpired)
		}
		return walletauth.JSONCodec{}.Decode("", data)
	})
}

// aheadBy makes k's own clock wrong; the server's and the test's are right.
func aheadBy(d time.Duration) func(*kept) {
	return func(k *kept) {
		local := &setClock{}
		local.ahead.Store(int64(d))
		k.Clock = local
	}
}

// clockless are the ways in which a Transport may never learn the server's time.
var clockless = map[string][]func(*kept){
	"behind something that strips Date":            {dated(noDate)},
	"with a Refresher of its own":                  {ownRefresher},
	"with a Refresher of its own and without Date": {ownRefresher, dated(noDate)},
}

func TestClockSkew(t *testing.T) {
	for _, ahead := range []time.Duration{10 * time.Minute, -10 * time.Minute, 7 * time.Hour, -7 * time.Hour, 31 * 24 * time.Hour, -31 * 24 * time.Hour} {
		for name, change := range clockless {
			name = fmt.Sprintf("of %s, %s, ", ahead, name)
			all := append([]func(*kept){aheadBy(ahead)}, change...)
			inBubble(t, name+"lets 20 of 20 requests through", func(t *testing.T) {
				k := newKept(t, all...)
				for range 20 {
					k.works(0)
				}
				synctest.Wait()
				if n := k.srv.Requests(walletauthtest.RefreshToken); n > 1 {
					t.Errorf("%d refreshes for 20 requests, want 1 at most", n)
				}
				if n := k.srv.Stats().Reuses; n != 0 {
					t.Errorf("a used refresh token was sent %d times", n)
				}
			})
			inBubble(t, name+"refreshes no more often", func(t *testing.T) {
				k := newKept(t, all...)
				if n := k.hour(); n > 16 {
					t.Errorf("%d refreshes in an hour, want 16 at most", n)
				}
				if n := k.hour(); n > 15 { // as with a right clock
					t.Errorf("%d refreshes in the second hour, want 15 at most", n)
				}
				k.shutdown()
				k.isLatest(k.stored())
			})
		}
	}
	for name, date := range map[string]func() string{
		"ten minutes ahead": dateOff(10 * time.Minute), "seven hours ahead": dateOff(7 * time.Hour),
		"ten minutes behind": dateOff(-10 * time.Minute), "seven hours behind": dateOff(-7 * time.Hour),
	} {
		inBubble(t, "of a Date "+name+" lets 60 requests through with one refresh at most", func(t *testing.T) {
			k := newKept(t, dated(date))
			k.at(late)
			k.works(0) // which brings the Date
			for range 60 {
				k.works(0)
			}
			synctest.Wait()
			k.sent(1)
		})
		inBubble(t, "of a Date "+name+" refreshes no more often", func(t *testing.T) {
			k := newKept(t, dated(date))
			if n := k.hour(); n > 16 {
				t.Errorf("%d refreshes in an hour, want 16 at most", n)
			}
			if n := k.hour(); n > 15 {
				t.Errorf("%d refreshes in the second hour, want 15 at most", n)
			}
		})
	}
	inBubble(t, "that comes up does not refresh a token again that is new", func(t *testing.T) {
		var ahead atomic.Int64
		k := newKept(t, dated(func() string { return dateOff(time.Duration(ahead.Load()))() }))
		k.at(late)
		k.works(0) // which measures the lifetime
		synctest.Wait()
		ahead.Store(int64(4*time.Minute + 55*time.Second)) // then a new token seems to have 5 s left
		time.Sleep(late)
		for range 29 {
			k.works(0)
			time.Sleep(5 * time.Second)
		}
		k.sent(2)
	})
	inBubble(t, "is not learned from a reply with an Age field", func(t *testing.T) {
		k := newKept(t, dated(dateOff(-10*time.Minute)))
		k.edit(func(_ *http.Request, resp *http.Response) { resp.Header.Set("Age", "600") })
		k.hour()
		if n := k.srv.Stats().Unauthorized; n != 0 {
			t.Errorf("%d requests went out with an expired token", n)
		}
	})
	inBubble(t, "that a right Date tells is made up for", func(t *testing.T) {
		k := newKept(t, aheadBy(-10*time.Minute))
		k.at(5 * time.Minute)
		k.works(0) // 401, which has a Date
		before := k.srv.Stats().Unauthorized
		k.hour()
		if n := k.srv.Stats().Unauthorized - before; n != 0 {
			t.Errorf("%d requests went out with an expired token", n)
		}
	})
}

// A clock decides when to ask, the server what is over.
func TestExpiredRefreshToken(t *testing.T) {
	sixHours := walletauthtest.Config{RefreshTokenTTL: 6 * time.Hour}
	for name, change := range map[string][]func(*kept){
		"a clock that is right about Date otherwise":   nil,
		"something that strips Date":                   {dated(noDate)},
		"a Refresher of one's own":                     {ownRefresher},
		"a Date of seven hours ahead":                  {dated(dateOff(7 * time.Hour))},
		"a Refresher of one's own and a stripped Date": {ownRefresher, dated(noDate)},
	} {
		inBubble(t, "by a clock seven hours ahead is sent: "+name, func(t *testing.T) {
			config := sixHours
			config.TB = t
			k := newKeptBy(t, config, append([]func(*kept){aheadBy(7 * time.Hour)}, change...)...)
			k.at(5 * time.Minute)
			k.works(0)
			k.works(0)
			k.sent(1)
			k.isLatest(k.stored())
		})
		inBubble(t, "after a jump of 31 days is sent: "+name, func(t *testing.T) {
			local := &setClock{}
			k := newKept(t, append([]func(*kept){func(k *kept) { k.Clock = local }}, change...)...)
			k.works(0)
			k.at(5 * time.Minute)
			local.ahead.Store(int64(31 * 24 * time.Hour))
			k.works(0)
			k.works(0)
			k.sent(1)
			local.ahead.Store(0)
			k.works(0)
			time.Sleep(5 * time.Minute)
			k.works(0)
			k.isLatest(k.stored())
		})
	}
	inBubble(t, "that the server refuses ends the session, asked once", func(t *testing.T) {
		k := newKeptBy(t, walletauthtest.Config{TB: t, RefreshTokenTTL: 10 * time.Minute})
		k.at(10 * time.Minute)
		if _, err := k.get(t.Context()); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Errorf("%v, want ErrSessionExpired", err)
		}
		for range 10 {
			if err := k.fails(0); !errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("%v, want ErrSessionExpired", err)
			}
		}
		k.sent(1)
		k.login("", "user")
		k.works(0)
	})
	inBubble(t, "that the server still takes is the session's next", func(t *testing.T) {
		k := newKept(t)
		old := *k.first
		old.RefreshTokenExpiresAt = old.CreatedAt.Add(time.Minute) // by an error of the server
		if err := walletauth.Save(t.Context(), k.Store, "", &old); err != nil {
			t.Fatal(err)
		}
		k.at(5 * time.Minute)
		k.works(0)
		k.sent(1)
	})
}

func TestOddExpiry(t *testing.T) {
	for name, expiry := range map[string]time.Duration{
		"an hour ago": -time.Hour, "at this moment": 0, "31 days ago": -31 * 24 * time.Hour, "in ten years": 87600 * time.Hour,
	} {
		for how, change := range map[string]func(*kept){"": nil, " where there is no Date": dated(noDate)} {
			inBubble(t, name+" corrects that session alone"+how, func(t *testing.T) {
				k := newKept(t, func(k *kept) {
					if change != nil {
						change(k)
					}
				})
				k.at(5 * time.Minute)
				k.rewrite(1, func(f map[string]any) {
					f["access_token_expires_at"] = time.Now().Add(expiry).UTC().Format(time.RFC3339)
				})
				other := k.login("other", "other")
				for range 20 {
					k.works(0)
				}
				synctest.Wait()
				k.sent(1)
				if s := k.stored(); s.RefreshToken == k.first.RefreshToken {
					t.Error("what the server issued was thrown away")
				}
				for range 3 { // of the other key, none is due
					time.Sleep(time.Minute)
					if _, err := k.get(walletauth.WithKey(t.Context(), "other")); err != nil {
						t.Fatal(err)
					}
					k.wentOutWith(other)
				}
				synctest.Wait()
				k.sent(1)
				k.hour()
				if n := k.hour(); n > 15 {
					t.Errorf("%d refreshes in an hour later, want 15 at most", n)
				}
			})
		}
	}
}

// What a reply to a refresh leaves out stays as it was.
func TestRefreshReply(t *testing.T) {
	fields := []string{"id", "created_at", "project_id", "user_id", "refresh_token", "refresh_token_expires_at", "access_token_expires_at"}
	all := map[string][]string{"all but the access token": fields, "nothing": nil}
	for _, field := range fields {
		all[field] = []string{field}
	}
	isTime := func(name string) bool { return strings.HasSuffix(name, "_at") }
	ways := map[string]func(f map[string]any, name string){
		"is absent":  func(f map[string]any, name string) { delete(f, name) },
		"is null":    func(f map[string]any, name string) { f[name] = nil },
		"is no time": func(f map[string]any, name string) { f[name] = "soon" },
	}
	for what, missing := range all {
		for how, drop := range ways {
			if how == "is no time" && !(len(missing) == 1 && isTime(missing[0])) {
				continue
			}
			inBubble(t, "in which "+what+" "+how+" renews the session", func(t *testing.T) {
				k := newKeptBy(t, walletauthtest.Config{TB: t, KeepRefreshToken: true})
				k.at(5 * time.Minute)
				k.rewrite(1, func(f map[string]any) {
					for _, name := range missing {
						drop(f, name)
					}
				})
				k.works(0)
				k.sent(1)
				got, want := *k.stored(), *k.srv.Sessions("user")[0]
				if left := time.Until(got.AccessTokenExpiresAt); left < time.Minute || left > 5*time.Minute {
					t.Errorf("the access token expires in %s, want 1 to 5 minutes", left)
				}
				got.AccessTokenExpiresAt = want.AccessTokenExpiresAt
				if got.AccessToken != want.AccessToken || got.RefreshToken != want.RefreshToken {
					t.Error("the tokens are not those of the server")
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("session (-want +got):\n%s", diff)
				}
				time.Sleep(5 * time.Minute)
				k.works(0)
			})
		}
	}
	inBubble(t, "without an expiry of a token that lived 20 s counts for a minute at least", func(t *testing.T) {
		k := newKeptBy(t, walletauthtest.Config{TB: t, AccessTokenTTL: 20 * time.Second})
		k.at(20 * time.Second)
		k.rewrite(1, func(f map[string]any) { delete(f, "access_token_expires_at") })
		k.works(0)
		if left := time.Until(k.stored().AccessTokenExpiresAt); left != time.Minute {
			t.Errorf("the access token expires in %s, want a minute", left)
		}
	})
	for name, change := range map[string]func(f map[string]any){
		"without an access token":                    func(f map[string]any) { delete(f, "access_token") },
		"with an empty access token":                 func(f map[string]any) { f["access_token"] = "" },
		"with an access token that is null":          func(f map[string]any) { f["access_token"] = nil },
		"with an access token that can be no header": func(f map[string]any) { f["access_token"] = "a\r\nb: c" },
		"with an access token that is no string":     func(f map[string]any) { f["access_token"] = 7 },
		"of another user":                            func(f map[string]any) { f["user_id"] = "mallory" },
		"of another project":                         func(f map[string]any) { f["project_id"] = "else" },
		"of more than 1 MiB":                         func(f map[string]any) { f["more"] = strings.Repeat("x", 1<<20) },
	} {
		inBubble(t, name+" is refused and the stored session stays", func(t *testing.T) {
			k := newKeptBy(t, walletauthtest.Config{KeepRefreshToken: true})
			k.at(5 * time.Minute)
			k.rewrite(1, change)
			if _, err := k.get(t.Context()); err == nil || errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("%v, want an error that is no end", err)
			}
			if *k.stored() != *k.first {
				t.Error("the stored session was changed")
			}
		})
	}
}

func TestSessionEnd(t *testing.T) {
	for name, c := range map[string]struct {
		contentType, body string
		over              bool
	}{
		"the ErrorResponse":                          {"application/json", `{"code":null,"error":"no"}`, true},
		"the ErrorResponse with a charset":           {"application/json; charset=utf-8", `{"code":"E7","error":"no"}`, true},
		"the ErrorResponse in capital letters' type": {"Application/JSON", `{"code":null,"error":"no"}`, true},
		"the ErrorResponse as problem+json":          {"application/problem+json", `{"code":null,"error":"no"}`, true},
		"the ErrorResponse without code":             {"application/json", `{"error":"no"}`, true},
		"another's JSON, Error":                      {"application/json", `{"Error":"Forbidden"}`, false},
		"another's JSON, ERROR and Code":             {"application/json", `{"ERROR":"Forbidden","Code":"1"}`, false},
		"another's JSON, with a long s":              {"application/json", `{"me\u017fsage":"x","Error":"Forbidden"}`, false},
		"another's JSON, message":                    {"application/json", `{"message":"Forbidden"}`, false},
		"an array":                                   {"application/json", `[{"error":"no"}]`, false},
		"the ErrorResponse's text as HTML":           {"text/html", `{"code":null,"error":"no"}`, false},
		"the ErrorResponse's text as plain text":     {"text/plain; charset=utf-8", `{"code":null,"error":"no"}`, false},
		"the ErrorResponse's text as javascript":     {"application/javascript", `{"code":null,"error":"no"}`, false},
		"the ErrorResponse's text without a type":    {"", `{"code":null,"error":"no"}`, false},
		"two ErrorResponses":                         {"application/json", `{"error":"no"}{"error":"no"}`, false},
	} {
		for _, status := range []int{400, 401, 403} {
			what := "does not come by "
			if c.over {
				what = "comes by "
			}
			inBubble(t, fmt.Sprintf("%s%s with status %d", what, name, status), func(t *testing.T) {
				k := newKept(t)
				k.at(5 * time.Minute)
				k.srv.FailRefresh(1, errorReply(status, c.contentType, c.body))
				_, err := k.get(t.Context())
				if err == nil || errors.Is(err, walletauth.ErrSessionExpired) != c.over {
					t.Errorf("%v, want an end: %t", err, c.over)
				}
				if c.over {
					return
				}
				time.Sleep(2 * time.Second) // a cool-down of 1 s, and jitter
				k.works(0)
				k.sent(2)
			})
		}
	}
	for _, status := range []int{404, 405, 410, 422, 451} {
		inBubble(t, fmt.Sprintf("does not come by the ErrorResponse with status %d", status), func(t *testing.T) {
			k := newKept(t)
			k.at(5 * time.Minute)
			k.srv.FailRefresh(1, errorReply(status, "application/json", ours))
			if _, err := k.get(t.Context()); err == nil || errors.Is(err, walletauth.ErrSessionExpired) {
				t.Errorf("%v, want an error that is no end", err)
			}
		})
	}
}

// Looking for a token of a letter would hide all that an error says.
func TestShortToken(t *testing.T) {
	for name, c := range map[string]struct {
		token  string
		hidden bool
	}{
		"of one byte leaves errors legible":    {"a", false},
		"of seven bytes leaves errors legible": {"example", false},
		"of eight bytes is hidden":             {"examples", true},
	} {
		inBubble(t, name, func(t *testing.T) {
			k := newKept(t)
			s := *k.first
			s.AccessToken, s.RefreshToken = c.token, c.token
			if err := walletauth.Save(t.Context(), k.Store, "", &s); err != nil {
				t.Fatal(err)
			}
			const message = "a bad request, see the examples"
			k.srv.FailRefresh(1, errorReply(404, "application/json", `{"code":null,"error":"`+message+`"}`))
			k.at(5 * time.Minute)
			_, err := k.get(t.Context())
			if err == nil || strings.Contains(err.Error(), message) == c.hidden {
				t.Errorf("%v, want the server's message; hidden: %t", err, c.hidden)
			}
		})
	}
}
