package api

import (
	"net/http"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestErrorResponseIsReadByItsExactNames(t *testing.T) {
	for name, row := range map[string]struct {
		kind, body    string
		code, message string
		ok            bool
	}{
		"with a code":                 {"application/json", `{"code":"c","error":"m"}`, "c", "m", true},
		"with code null":              {"application/json", `{"code":null,"error":"m"}`, "", "m", true},
		"without a code":              {"application/json", `{"error":"m","more":1}`, "", "m", true},
		"with an empty message":       {"application/json", `{"error":""}`, "", "", true},
		"with a charset":              {"Application/JSON; charset=utf-8", `{"error":"m"}`, "", "m", true},
		"as a kind of JSON":           {"application/problem+json", `{"error":"m"}`, "", "m", true},
		"not in another case":         {"application/json", `{"Error":"m"}`, "", "", false},
		"not with a code that is odd": {"application/json", `{"code":7,"error":"m"}`, "", "", false},
		"not with a message of null":  {"application/json", `{"error":null}`, "", "", false},
		"not with an odd message":     {"application/json", `{"error":{"a":1}}`, "", "", false},
		"not without a message":       {"application/json", `{"code":"c"}`, "", "", false},
		"not in an array":             {"application/json", `[{"error":"m"}]`, "", "", false},
		"not cut off":                 {"application/json", `{"error":"m"`, "", "", false},
		"not as text":                 {"text/plain", `{"error":"m"}`, "", "", false},
		"not as a page":               {"text/html", `{"error":"m"}`, "", "", false},
		"not as no type at all":       {"", `{"error":"m"}`, "", "", false},
		"not as something like JSON":  {"application/jsonp", `{"error":"m"}`, "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			code, message, ok := ErrorResponse(http.Header{"Content-Type": {row.kind}}, []byte(row.body))
			if code != row.code || message != row.message || ok != row.ok {
				t.Errorf("got %q, %q, %t", code, message, ok)
			}
		})
	}
}

func TestRetryAfterIsSecondsOrADate(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "4294967295": 4294967295 * time.Second,
		"4294967296": 0, "-1": 0, "1.5": 0, "soon": 0,
		"Sun, 01 Mar 2026 12:01:00 GMT": time.Minute, "Sun, 01 Mar 2026 11:59:00 GMT": 0,
	} {
		if got := RetryAfter(http.Header{"Retry-After": {value}}, noon); got != want {
			t.Errorf("Retry-After %q is %v, want %v", value, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Sun, 01 Mar 2026 13:00:00 GMT")
	f.Add("-1")
	f.Add("99999999999999999999")
	f.Add(" 7 ")
	f.Fuzz(func(t *testing.T, value string) {
		if got := RetryAfter(http.Header{"Retry-After": {value}}, noon); got < 0 {
			t.Fatalf("Retry-After %q is %v, which lies behind", value, got)
		}
	})
}
