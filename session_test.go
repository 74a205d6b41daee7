package walletauth_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/walletauth/walletauth"
)

const accessSecret, refreshSecret = "ACCESS-5ecret/with?odd&chars", "REFRESH-5ecret\nwith a break"

func secretSession() walletauth.Session {
	now := time.Date(2026, 3, 1, 12, 0, 0, 123, time.UTC)
	return walletauth.Session{
		ID: "session-1", CreatedAt: now, ProjectID: "project-1", UserID: "user-1",
		AccessToken: accessSecret, AccessTokenExpiresAt: now.Add(5 * time.Minute),
		RefreshToken: refreshSecret, RefreshTokenExpiresAt: now.Add(720 * time.Hour),
	}
}

// leaks reports whether text holds a piece of a secret, in any spelling.
func leaks(text string) bool { return strings.Contains(text, "5ecret") }

type holder struct {
	Session  walletauth.Session
	Pointer  *walletauth.Session
	Any      any
	List     []walletauth.Session
	ByKey    map[string]*walletauth.Session
	Embedded struct{ Inner *walletauth.Session }
}

func TestNoVerbPrintsAToken(t *testing.T) {
	s := secretSession()
	h := holder{Session: s, Pointer: &s, Any: s, List: []walletauth.Session{s}, ByKey: map[string]*walletauth.Session{"k": &s}}
	h.Embedded.Inner = &s
	for name, v := range map[string]any{"value": s, "pointer": &s, "struct": h, "pointer to struct": &h, "slice": h.List, "map": h.ByKey} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%20v", "%-5s", "%!", "%z"} {
			if text := fmt.Sprintf(verb, v); leaks(text) {
				t.Errorf("%s of a %s prints a token: %s", verb, name, text)
			}
		}
		if text := fmt.Sprint(v); leaks(text) {
			t.Errorf("Sprint of a %s prints a token: %s", name, text)
		}
	}
}

func TestPrintingSaysWhichSessionItIs(t *testing.T) {
	s := secretSession()
	for _, text := range []string{s.String(), s.GoString(), fmt.Sprintf("%v", &s), fmt.Sprintf("%#v", s)} {
		for _, want := range []string{"session-1", "user-1", "project-1", "2026-03-01T12:05:00Z", "[redacted]"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %s", text, want)
			}
		}
	}
	if got := fmt.Sprintf("%q", s); !strings.HasPrefix(got, `"walletauth.Session{`) {
		t.Errorf("%%q is not quoted: %s", got)
	}
	var none *walletauth.Session
	if got := fmt.Sprintf("%v", none); got != "<nil>" {
		t.Errorf("a nil session prints %s", got)
	}
}

func TestNoSlogHandlerPrintsAToken(t *testing.T) {
	s := secretSession()
	var out bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		l := slog.New(handler)
		l.Info("a", "value", s, "pointer", &s, slog.Group("g", "inner", s))
		l.With("s", s).WithGroup("g").Info("b", "p", &s)
		l.Info("c", "event", walletauth.Event{Type: walletauth.RefreshFailed, Err: errors.New("x")})
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("d", "struct", holder{Session: s, Pointer: &s})
	if leaks(out.String()) {
		t.Errorf("a handler printed a token:\n%s", out.String())
	}
	if !strings.Contains(out.String(), "user_id") {
		t.Errorf("the session's fields are missing:\n%s", out.String())
	}
}

func TestSessionJSONIsTheAPIs(t *testing.T) {
	s := secretSession()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]string
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"id": "session-1", "created_at": "2026-03-01T12:00:00.000000123Z", "project_id": "project-1", "user_id": "user-1",
		"access_token": accessSecret, "access_token_expires_at": "2026-03-01T12:05:00.000000123Z",
		"refresh_token": refreshSecret, "refresh_token_expires_at": "2026-03-31T12:00:00.000000123Z",
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestJSONCodecKeepsEveryField(t *testing.T) {
	s := secretSession()
	s.AccessToken = "access" // one that may be sent
	data, err := walletauth.JSONCodec{}.Encode("key", &s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := walletauth.JSONCodec{}.Decode("another key", data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&s, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestJSONCodecNamesWhatIsWrongAndQuotesNothing(t *testing.T) {
	whole := func(change func(fields map[string]any)) string {
		s := secretSession()
		data, _ := json.Marshal(s)
		var fields map[string]any
		_ = json.Unmarshal(data, &fields)
		fields["access_token"] = "access-5ecret"
		change(fields)
		data, _ = json.Marshal(fields)
		return string(data)
	}
	set := func(name string, value any) string {
		return whole(func(f map[string]any) { f[name] = value })
	}
	for _, row := range []struct{ promise, data, want string }{
		{"nothing", "", "not valid JSON"},
		{"half of it", whole(func(map[string]any) {})[:200], "not valid JSON"},
		{"text", "5ecret", "not valid JSON"},
		{"a list", `["5ecret"]`, "not a JSON object"},
		{"null", "null", "lacks id"},
		{"a number for a token", set("access_token", 55555), "access_token is not a string"},
		{"an object for a token", set("refresh_token", map[string]string{"5ecret": "5ecret"}), "refresh_token is not a string"},
		{"a token for a time", set("created_at", "ACCESS-5ecret"), "created_at is not an RFC 3339 time"},
		{"a missing time", set("refresh_token_expires_at", ""), "lacks refresh_token_expires_at"},
		{"a missing id", set("id", ""), "lacks id"},
		{"a missing user", set("user_id", nil), "lacks user_id"},
		{"a missing project", set("project_id", ""), "lacks project_id"},
		{"a missing access token", set("access_token", ""), "lacks access_token"},
		{"a missing refresh token", set("refresh_token", nil), "lacks refresh_token"},
		{"a token with a line break", set("access_token", "5ecret\r\nX: y"), "access_token cannot be sent in a header"},
		{"something behind it", whole(func(map[string]any) {}) + "5ecret", "not valid JSON"},
	} {
		t.Run(row.promise, func(t *testing.T) {
			s, err := walletauth.JSONCodec{}.Decode("key", []byte(row.data))
			if err == nil {
				t.Fatalf("decoded to %v", s)
			}
			if !strings.Contains(err.Error(), row.want) || !strings.HasPrefix(err.Error(), "walletauth: ") {
				t.Errorf("error %q does not say %q", err, row.want)
			}
			if leaks(err.Error()) || errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("error %q quotes the data or looks like a logout", err)
			}
		})
	}
}

func TestEncodeRefusesWhatCannotBeRead(t *testing.T) {
	late := secretSession()
	late.AccessToken = "access"
	late.CreatedAt = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) // beyond RFC 3339
	for name, s := range map[string]*walletauth.Session{"nil": nil, "empty": {}, "year 10000": &late} {
		if data, err := (walletauth.JSONCodec{}).Encode("key", s); err == nil || leaks(err.Error()) {
			t.Errorf("%s: encoded to %q, error %v", name, data, err)
		}
	}
}

// harmless is all that is said of data that is no session.
var harmless = regexp.MustCompile(`^walletauth: decode session: the session(` +
	` lacks ` + fieldName + `|'s ` + fieldName + ` is not a string|'s ` + fieldName + ` is not an RFC 3339 time|` +
	`'s access_token cannot be sent in a header| is not valid JSON| is not a JSON object)$`)

const fieldName = `(id|created_at|project_id|user_id|(access|refresh)_token(_expires_at)?)`

func FuzzStoredSession(f *testing.F) {
	s := secretSession()
	s.AccessToken = "access"
	data, err := walletauth.JSONCodec{}.Encode("", &s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"id":"5ecret","created_at":"5ecret"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := walletauth.JSONCodec{}.Decode("key", data)
		if err != nil {
			if errors.Is(err, walletauth.ErrNoSession) {
				t.Fatalf("unreadable data looks like a logout: %v", err)
			}
			if !harmless.MatchString(err.Error()) {
				t.Fatalf("an error that may quote the data: %v", err)
			}
			return
		}
		again, err := walletauth.JSONCodec{}.Encode("key", got)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		back, err := walletauth.JSONCodec{}.Decode("key", again)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if diff := cmp.Diff(got, back); diff != "" {
			t.Fatalf("a round trip changed the session:\n%s", diff)
		}
	})
}
