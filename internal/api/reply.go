package api

import (
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ErrorResponse reads {"code": string or null, "error": string}, where code
// may be absent. The names are exact and the media type is JSON's: encoding/json
// would take {"Error": ...} as well, which somebody else wrote.
func ErrorResponse(h http.Header, body []byte) (code, message string, ok bool) {
	var fields map[string]json.RawMessage
	if !isJSON(h) || json.Unmarshal(body, &fields) != nil {
		return "", "", false
	}
	var reply struct{ code, message *string }
	if json.Unmarshal(fields["error"], &reply.message) != nil || reply.message == nil {
		return "", "", false
	}
	if data, given := fields["code"]; given && json.Unmarshal(data, &reply.code) != nil {
		return "", "", false
	}
	if reply.code != nil {
		code = *reply.code
	}
	return code, *reply.message, true
}

// isJSON reports whether h announces application/json or a type with the suffix
// +json (RFC 6839, section 3.1).
func isJSON(h http.Header) bool {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && (mediaType == "application/json" || strings.HasSuffix(mediaType, "+json"))
}

// RetryAfter reads the Retry-After field, seconds or a date (RFC 9110, section
// 10.2.3), as a time from now. Zero means that there is none that makes sense.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return max(0, date.Sub(now))
}
