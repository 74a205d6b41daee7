package walletauth

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCopyOfAHeaderKeepsWhatIsNotOurs(t *testing.T) {
	ofTheSameLengths := http.Header{
		"Cache-Control": {"no-store"}, "Access-Control-Max-Age": {"1"}, "X-Of-Twenty-Four-Letters": {"2"},
	}
	for name := range ofTheSameLengths {
		if n := len(name); n != len(authHeader) && n != len(projectHeader) && n != len(sourceHeader) {
			t.Fatalf("%s is as long as none of ours", name)
		}
	}
	for name, c := range map[string]struct {
		header, want http.Header
		own          ownHeaders
	}{
		"names as long as ours":         {ofTheSameLengths, ofTheSameLengths, ownHeaders{}},
		"beside one without a value":    {http.Header{authHeader: {""}, "A": {"1"}, "B": nil, "C": {""}}, http.Header{"A": {"1"}, "B": nil, "C": {""}}, ownHeaders{}},
		"the usual of two spellings":    {http.Header{"authorization": {"odd"}, authHeader: {"usual"}}, http.Header{authHeader: {"usual"}}, ownHeaders{authorization: true}},
		"the one spelling with a value": {http.Header{"AUTHORIZATION": {"odd"}, authHeader: nil}, http.Header{authHeader: {"odd"}}, ownHeaders{authorization: true}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 100 { // in a map's orders
				out, own := copyHeader(c.header)
				if diff := cmp.Diff(c.want, out); diff != "" || own != c.own {
					t.Fatalf("own %+v, want %+v; header (-want +got):\n%s", own, c.own, diff)
				}
			}
		})
	}
}
