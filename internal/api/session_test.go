package api

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const wholeReply = `{"id":"i","created_at":"2026-03-01T12:00:00Z","project_id":"p","user_id":"u",` +
	`"access_token":"a","access_token_expires_at":"2026-03-01T12:05:00Z",` +
	`"refresh_token":"r","refresh_token_expires_at":"2026-03-31T12:00:00Z"}`

func whole() *Session {
	return &Session{
		ID: "i", CreatedAt: noon, ProjectID: "p", UserID: "u",
		AccessToken: "a", AccessTokenExpiresAt: noon.Add(5 * time.Minute),
		RefreshToken: "r", RefreshTokenExpiresAt: noon.AddDate(0, 0, 30),
	}
}

func TestDecodeSessionReadsAllFields(t *testing.T) {
	s, err := DecodeSession([]byte(wholeReply))
	if diff := cmp.Diff(whole(), s); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

func TestDecodeSessionSaysWhichFieldIsWrong(t *testing.T) {
	for _, field := range []string{"id", "created_at", "project_id", "user_id", "access_token", "access_token_expires_at", "refresh_token", "refresh_token_expires_at"} {
		for name, row := range map[string]struct{ reply, want string }{
			"missing":              {strings.Replace(wholeReply, `"`+field+`"`, `"x"`, 1), "lacks " + field},
			"in another case":      {strings.Replace(wholeReply, `"`+field+`"`, `"`+strings.ToUpper(field)+`"`, 1), "lacks " + field},
			"of another JSON type": {strings.Replace(wholeReply, `"`+field+`":"`, `"`+field+`":["`, 1), ""},
		} {
			if name == "of another JSON type" {
				rest := row.reply[strings.Index(row.reply, field):]
				end := strings.Index(rest, `","`)
				if end < 0 {
					end = strings.Index(rest, `"}`)
				}
				row.reply = strings.Replace(row.reply, rest[:end+1], rest[:end+1]+"]", 1)
				row.want = field + " is not a string"
			}
			if _, err := DecodeSession([]byte(row.reply)); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("%s %s: %v, want one that says %q", field, name, err, row.want)
			}
		}
	}
}

func TestDecodeErrorsQuoteNothing(t *testing.T) {
	const secret = "5ecret-t0ken"
	for name, reply := range map[string]string{
		"a token as a time":   strings.Replace(wholeReply, "2026-03-01T12:05:00Z", secret, 1),
		"a token as a number": strings.Replace(wholeReply, `"i"`, `{"`+secret+`":1}`, 1),
		"not an object":       `"` + secret + `"`,
		"not JSON":            secret,
		"a newline in it":     strings.Replace(wholeReply, `"a"`, `"`+secret+`\n"`, 1),
	} {
		if _, err := DecodeSession([]byte(reply)); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestATimeInAReplyThatCannotBeReadCountsAsLeftOut(t *testing.T) {
	s, err := DecodeReply([]byte(`{"access_token":"a","created_at":17,"access_token_expires_at":"soon","refresh_token_expires_at":null}`))
	if diff := cmp.Diff(&Session{AccessToken: "a"}, s); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	if _, err := DecodeReply([]byte(`{"access_token":7}`)); err == nil {
		t.Error("a token that is no string was read")
	}
}

func TestRenewTakesOverWhatTheReplyLeavesOut(t *testing.T) {
	old, expiry := whole(), noon.Add(time.Hour)
	want := whole()
	want.AccessToken, want.AccessTokenExpiresAt = "new", expiry
	got, err := old.Renew(&Session{AccessToken: "new"}, expiry)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	all := &Session{
		ID: "i2", CreatedAt: noon.Add(1), ProjectID: "p", UserID: "u", AccessToken: "a2", AccessTokenExpiresAt: noon.Add(2),
		RefreshToken: "r2", RefreshTokenExpiresAt: noon.Add(3),
	}
	got, err = old.Renew(all, expiry)
	if diff := cmp.Diff(all, got); err != nil || diff != "" || got == all {
		t.Errorf("a whole reply: %v, %s", err, diff)
	}
	if diff := cmp.Diff(whole(), old); diff != "" {
		t.Errorf("the session was changed: %s", diff)
	}
}

func TestRenewRefusesWhatCannotBeASuccessor(t *testing.T) {
	for name, row := range map[string]struct {
		reply *Session
		want  string
	}{
		"nothing":                 {nil, "is nil"},
		"no access token":         {&Session{}, "lacks access_token"},
		"one that cannot be sent": {&Session{AccessToken: "a\nb"}, "cannot be sent"},
		"another user's":          {&Session{AccessToken: "a", UserID: "other"}, "another user's"},
		"another project's":       {&Session{AccessToken: "a", ProjectID: "other"}, "another project's"},
	} {
		if s, err := whole().Renew(row.reply, noon); s != nil || err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
	if _, err := (&Session{RefreshToken: "r"}).Renew(&Session{AccessToken: "a", UserID: "u", ProjectID: "p"}, noon); err != nil {
		t.Errorf("a session that names no user has no successor: %v", err)
	}
}

func TestDecodeLogin(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	fmt.Fprint(w, wholeReply)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	padded := func(n int) []byte { return []byte(wholeReply + strings.Repeat(" ", n-len(wholeReply))) }
	for name, row := range map[string]struct {
		encoding string
		data     []byte
		found    bool
	}{
		"a session":                 {"", []byte(wholeReply), true},
		"a session packed by gzip":  {"gzip", packed.Bytes(), true},
		"GZIP in capitals":          {"GZIP", packed.Bytes(), true},
		"packed, and cut off":       {"gzip", packed.Bytes()[:packed.Len()-10], false},
		"not packed though it says": {"gzip", []byte(wholeReply), false},
		"packed and does not say":   {"", packed.Bytes(), false},
		"packed by something else":  {"br", packed.Bytes(), false},
		"no session":                {"", []byte(`{"id":"i"}`), false},
		"nothing":                   {"", nil, false},
		"just short of a MiB":       {"", padded(MaxReply - 1), true},
		"cut off at a MiB":          {"", padded(MaxReply), false},
	} {
		if s := DecodeLogin(http.Header{"Content-Encoding": {row.encoding}}, row.data); (s != nil) != row.found {
			t.Errorf("%s: %v", name, s)
		}
	}
}
