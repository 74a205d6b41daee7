package walletauth

import (
	"net/http"
	"slices"
	"strings"
)

const (
	projectHeader = "X-Walletkit-Project-Id" // in the canonical form of net/http
	sourceHeader  = "X-Walletkit-Token-Source"
	authHeader    = "Authorization"
)

// callerHeaders are those of the three that the caller has set.
type callerHeaders struct{ authorization, project, source bool }

// copyHeader copies h with room for our three fields. A field that stands in
// the map in another case than net/http's, put there past Header.Set, is the
// same field and comes out in the usual case; one without a value counts as
// not set.
func copyHeader(h http.Header) (out http.Header, caller callerHeaders) {
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

// missing counts our fields that h lacks, where it matters: up to eight fields
// fit into the smallest map there is, which saves two allocations.
func missing(h http.Header) int {
	n := 3
	if len(h) <= 5 {
		return n
	}
	for _, name := range [...]string{authHeader, projectHeader, sourceHeader} {
		if _, ok := h[name]; ok {
			n--
		}
	}
	return n
}

// find returns the canonical name if name is one of our three.
func (callerHeaders) find(name string) string {
	switch {
	case len(name) == len(authHeader) && strings.EqualFold(name, authHeader):
		return authHeader
	case len(name) == len(projectHeader) && strings.EqualFold(name, projectHeader):
		return projectHeader
	case len(name) == len(sourceHeader) && strings.EqualFold(name, sourceHeader):
		return sourceHeader
	default:
		return ""
	}
}

func (c *callerHeaders) set(name string) {
	switch name {
	case authHeader:
		c.authorization = true
	case projectHeader:
		c.project = true
	case sourceHeader:
		c.source = true
	}
}

func hasValue(values []string) bool {
	return slices.ContainsFunc(values, func(v string) bool { return v != "" })
}
