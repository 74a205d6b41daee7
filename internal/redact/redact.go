// Package redact takes secrets out of texts and errors, in every form in which
// they may have been quoted.
package redact

import (
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// minLength is the length in bytes from which a secret is looked for. Shorter
// ones are words of ordinary messages.
const minLength = 8

// Text replaces the secrets in text by [redacted], also where they were escaped
// for a URL, quoted once or twice, as JSON in a log line is, or encoded as JSON.
// The longest form comes first, since a shorter one may be part of it.
func Text(text string, secrets ...string) string {
	var forms []string
	for _, secret := range secrets {
		if len(secret) >= minLength {
			forms = append(forms, encodings(secret)...)
		}
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	pairs := make([]string, 0, 2*len(forms))
	for _, form := range forms {
		pairs = append(pairs, form, "[redacted]")
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// Error returns err, or a replacement if its text holds one of the secrets. The
// replacement keeps what errors.Is finds and nothing else: the error itself
// would hand the secret to the next errors.As or %#v.
func Error(err error, secrets ...string) error {
	text := err.Error()
	clean := Text(text, secrets...)
	if clean == text {
		return err
	}
	return &redacted{text: clean, is: func(target error) bool { return errors.Is(err, target) }}
}

type redacted struct {
	text string
	is   func(error) bool
}

func (e *redacted) Error() string { return e.text }

func (e *redacted) Is(target error) bool { return e.is(target) }

func encodings(s string) []string {
	sent := asJSON(s)
	return []string{s, quote(s), quote(quote(s)), sent, quote(sent), url.QueryEscape(s), url.PathEscape(s)}
}

// asJSON is s as package encoding/json writes it: unlike quote it escapes <, >
// and &.
func asJSON(s string) string {
	data, _ := json.Marshal(s) // of a string it cannot fail
	return string(data[1 : len(data)-1])
}

func quote(s string) string {
	s = strconv.Quote(s)
	return s[1 : len(s)-1]
}
