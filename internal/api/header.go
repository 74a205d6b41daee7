package api

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// The names of the fields that a request with a token has.
const (
	ProjectHeader = "X-Walletkit-Project-Id" // in the canonical form of net/http
	SourceHeader  = "X-Walletkit-Token-Source"
	AuthHeader    = "Authorization"
)

// CallerHeaders are those of the three that the caller has set.
type CallerHeaders struct{ Authorization, Project, Source bool }

// CopyHeader copies h with room for the three fields. A field that stands in
// the map in another case than net/http's, put there past Header.Set, is the
// same field and comes out in the usual case; one without a value counts as
// not set.
func CopyHeader(h http.Header) (out http.Header, caller CallerHeaders) {
	if len(h) > 0 && len(h)+3 <= smallestMap && !mayHoldOurs(h) {
		return maps.Clone(h), caller // as one block, in half the time
	}
	out = make(http.Header, len(h)+missing(h))
	for name, values := range h {
		if ours := caller.find(name); ours != "" {
			if !hasValue(values) || name != ours && out[ours] != nil {
				continue
			}
			caller.set(ours)
			name = ours
		}
		out[name] = values
	}
	return out, caller
}

// smallestMap is how many fields fit into the smallest map there is, which saves
// two allocations.
const smallestMap = 8

// mayHoldOurs reports whether a name in h is as long as one of the three.
func mayHoldOurs(h http.Header) bool {
	for name := range h {
		switch len(name) {
		case len(AuthHeader), len(ProjectHeader), len(SourceHeader):
			return true
		}
	}
	return false
}

// missing counts the fields that h lacks, where it matters.
func missing(h http.Header) int {
	n := 3
	if len(h)+n <= smallestMap {
		return n
	}
	for _, name := range [...]string{AuthHeader, ProjectHeader, SourceHeader} {
		if _, ok := h[name]; ok {
			n--
		}
	}
	return n
}

// find returns the canonical name if name is one of the three.
func (CallerHeaders) find(name string) string {
	switch {
	case len(name) == len(AuthHeader) && strings.EqualFold(name, AuthHeader):
		return AuthHeader
	case len(name) == len(ProjectHeader) && strings.EqualFold(name, ProjectHeader):
		return ProjectHeader
	case len(name) == len(SourceHeader) && strings.EqualFold(name, SourceHeader):
		return SourceHeader
	default:
		return ""
	}
}

func (c *CallerHeaders) set(name string) {
	switch name {
	case AuthHeader:
		c.Authorization = true
	case ProjectHeader:
		c.Project = true
	case SourceHeader:
		c.Source = true
	}
}

func hasValue(values []string) bool {
	return slices.ContainsFunc(values, func(v string) bool { return v != "" })
}

// ValidHeaderValue reports whether v may stand in an HTTP field (RFC 9110,
// section 5.5): no control characters but the tab.
func ValidHeaderValue(v string) bool {
	for i := range len(v) {
		if c := v[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
}
