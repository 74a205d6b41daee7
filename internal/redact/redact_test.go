package redact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"
)

// Both hold 5ecret where no encoding changes it.
const access, refresh = "acc/5ecret?=&+<>", "ref\n5ecret\"\x01\\"

func TestASecretIsRemovedInAnyForm(t *testing.T) {
	for _, secret := range []string{access, refresh} {
		for name, text := range map[string]string{
			"as it is":         "tried " + secret + " twice: " + secret,
			"quoted":           fmt.Sprintf("tried %q", secret),
			"in a query":       "tried ?token=" + url.QueryEscape(secret),
			"in a path":        "tried /" + url.PathEscape(secret),
			"in JSON":          "tried " + asJSON(secret),
			"as quoted JSON":   fmt.Sprintf("tried %q", asJSON(secret)),
			"quoted twice":     fmt.Sprintf("tried %q", fmt.Sprintf("%q", secret)),
			"in an url.Error":  (&url.Error{Op: "Get", URL: url.PathEscape(secret), Err: io.EOF}).Error(),
			"at the very end":  secret,
			"beside the other": access + refresh,
		} {
			got := Error(errors.New(text), "", access, refresh)
			if strings.Contains(got.Error(), "5ecret") || !strings.Contains(got.Error(), "[redacted]") {
				t.Errorf("%s: %q", name, got)
			}
			if Text(text, access, refresh) != got.Error() {
				t.Errorf("%s: Text and Error differ", name)
			}
		}
	}
}

func TestTheLongestFormIsReplacedAndNoOwnText(t *testing.T) {
	if got := Text("secret-12, then secret-1", "secret-1", "secret-12"); got != "[redacted], then [redacted]" {
		t.Errorf("got %q", got)
	}
	if got := Text("redacted and secret-1", "redacted", "secret-1"); got != "[redacted] and [redacted]" {
		t.Errorf("got %q", got)
	}
}

func TestWhatIsShorterThanEightBytesIsAWordOfTheMessage(t *testing.T) {
	if got := Text("the session expired", "", "session"); got != "the session expired" {
		t.Errorf("got %q", got)
	}
	if got := Text("the sessions expired", "sessions"); got != "the [redacted] expired" {
		t.Errorf("got %q", got)
	}
}

func TestACleanErrorStaysAsItIs(t *testing.T) {
	if err := Error(io.EOF, access, refresh); err != io.EOF {
		t.Errorf("got %v", err)
	}
	if got := Text("clean", access); got != "clean" {
		t.Errorf("got %q", got)
	}
}

type tokenError struct{ token string }

func (e tokenError) Error() string { return "bad token " + e.token }

func TestARedactedErrorIsStillWhatItWas(t *testing.T) {
	over := errors.New("over")
	err := fmt.Errorf("outer: %w", Error(fmt.Errorf("%w: %w: %w", tokenError{access}, context.Canceled, over), access))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, over) || errors.Is(err, io.EOF) {
		t.Errorf("errors.Is finds something else in %v", err)
	}
	if err.Error() != "outer: bad token [redacted]: context canceled: over" {
		t.Errorf("got %q", err)
	}
	var token tokenError
	if errors.As(err, &token) {
		t.Error("errors.As gets at the error that holds the token")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%q", "%s"} {
		if text := fmt.Sprintf(verb, errors.Unwrap(err)); strings.Contains(text, "5ecret") {
			t.Errorf("%s prints %s", verb, text)
		}
	}
}

// However a secret was encoded, its text does not come through.
func FuzzText(f *testing.F) {
	f.Add("before ", access, " after")
	f.Add("", refresh, "")
	f.Add("[redacted]", "[redacted]", "[redacted]")
	f.Add("%41", "%41%42%43", "\xff")
	f.Fuzz(func(t *testing.T, before, secret, after string) {
		if len(secret) < minLength || strings.Contains("[redacted]", secret) {
			return // not looked for, or part of the replacement
		}
		for _, form := range encodings(secret) {
			if got := Text(before+form+after, secret); strings.Contains(got, form) && !mayReappear(before, after, form) {
				t.Errorf("%q came through: %q", form, got)
			}
		}
	})
}

// mayReappear reports whether the text around the secret can make it up again
// with what is put in its place.
func mayReappear(before, after, form string) bool {
	return strings.ContainsAny(form, "[]redacted") && strings.Contains(before+"[redacted]"+after, form)
}
