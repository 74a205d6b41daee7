package need_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/walletauth/walletauth/internal/need"
)

// recorder records how a test would end.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper()                           {}
func (r *recorder) Skipf(format string, args ...any)  { r.skipped = fmt.Sprintf(format, args...) }
func (r *recorder) Fatalf(format string, args ...any) { r.failed = fmt.Sprintf(format, args...) }

func TestSkip(t *testing.T) {
	const line = "no redis-server: apt-get install redis-server"
	for name, c := range map[string]struct {
		ci   string
		want recorder
	}{
		"skips on somebody's machine": {"", recorder{skipped: line}},
		"fails under CI":              {"true", recorder{failed: line}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("CI", c.ci)
			var got recorder
			need.Skip(&got, errors.New("no redis-server"), "apt-get install redis-server")
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
