package api

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// eight returns h with eight more fields.
func eight(h http.Header) http.Header {
	out := h.Clone()
	if out == nil {
		out = http.Header{}
	}
	for n := range 8 {
		out[fmt.Sprint("Field-", n)] = []string{"value"}
	}
	return out
}

func TestCopyOfAHeaderKeepsWhatIsNotOurs(t *testing.T) {
	ofTheSameLengths := http.Header{
		"Cache-Control": {"no-store"}, "Access-Control-Max-Age": {"1"}, "X-Of-Twenty-Four-Letters": {"2"},
	}
	for name := range ofTheSameLengths {
		if n := len(name); n != len(AuthHeader) && n != len(ProjectHeader) && n != len(SourceHeader) {
			t.Fatalf("%s is as long as none of ours", name)
		}
	}
	for name, c := range map[string]struct {
		header, want http.Header
		caller       CallerHeaders
	}{
		"names as long as ours":               {ofTheSameLengths, ofTheSameLengths, CallerHeaders{}},
		"beside one without a value":          {http.Header{AuthHeader: {""}, "A": {"1"}, "B": nil, "C": {""}}, http.Header{"A": {"1"}, "B": nil, "C": {""}}, CallerHeaders{}},
		"the usual of two spellings":          {http.Header{"authorization": {"odd"}, AuthHeader: {"usual"}}, http.Header{AuthHeader: {"usual"}}, CallerHeaders{Authorization: true}},
		"the one spelling with a value":       {http.Header{"AUTHORIZATION": {"odd"}, AuthHeader: nil}, http.Header{AuthHeader: {"odd"}}, CallerHeaders{Authorization: true}},
		"more than fit into the smallest map": {eight(nil), eight(nil), CallerHeaders{}},
		"more than fit, with all three": {
			eight(http.Header{"authorization": {"own"}, ProjectHeader: {"p"}, SourceHeader: {"s"}}),
			eight(http.Header{AuthHeader: {"own"}, ProjectHeader: {"p"}, SourceHeader: {"s"}}), CallerHeaders{true, true, true},
		},
		"none": {http.Header{}, http.Header{}, CallerHeaders{}},
		"nil":  {nil, http.Header{}, CallerHeaders{}},
		"all three": {
			http.Header{"x-walletkit-project-id": {"p"}, "X-WALLETKIT-TOKEN-SOURCE": {"firebase"}, AuthHeader: {"own"}},
			http.Header{ProjectHeader: {"p"}, SourceHeader: {"firebase"}, AuthHeader: {"own"}}, CallerHeaders{true, true, true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 100 { // in a map's orders
				out, caller := CopyHeader(c.header)
				if diff := cmp.Diff(c.want, out); diff != "" || caller != c.caller {
					t.Fatalf("caller %+v, want %+v; header (-want +got):\n%s", caller, c.caller, diff)
				}
			}
		})
	}
}

func TestCopyOfAHeaderIsTheCallersNoMore(t *testing.T) {
	for _, h := range []http.Header{{}, {"A": {"1"}}, eight(nil)} {
		out, _ := CopyHeader(h)
		out["New"] = []string{"value"}
		if h["New"] != nil {
			t.Errorf("a header of %d fields is changed with its copy", len(h))
		}
	}
}
