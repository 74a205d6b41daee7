//go:build linux

package remotetest

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// What follows is for stores in databases that speak SQL.

// ReadmeStatements returns the SQL statements in the README of a store: one to look,
// the others to grant.
func ReadmeStatements(t *testing.T) (query string, grants []string) {
	t.Helper()
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllSubmatch(page, -1) {
		for statement := range strings.SplitSeq(string(block[1]), ";") {
			switch statement = strings.TrimSpace(statement); {
			case strings.HasPrefix(statement, "SELECT"):
				query = statement
			case strings.Contains(statement, "GRANT"):
				grants = append(grants, statement)
			}
		}
	}
	if query == "" || len(grants) != 2 {
		t.Fatalf("the README has the query %q and the grants %q", query, grants)
	}
	return query, grants
}

// TableMissing demands that a store without its table, which is named "missing",
// says so at once: waiting will not bring it.
func TableMissing(t *testing.T, s walletauth.TokenStore) {
	t.Helper()
	began := time.Now()
	if _, err := s.Load(t.Context(), "user"); err == nil || !strings.Contains(err.Error(), "missing") || errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("Load: %v", err)
	}
	if err := walletauth.Delete(t.Context(), s, "user"); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("Update: %v", err)
	}
	t.Logf("both took %v", time.Since(began))
}

// BenchmarkRefreshes reports how many of a thousand sessions a second one process
// refreshes, 256 at once. What a refresh itself would take is left out.
func BenchmarkRefreshes(b *testing.B, refresh func(b *testing.B, key string)) {
	var all sync.WaitGroup
	var next atomic.Int64
	for range 256 {
		all.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				refresh(b, fmt.Sprint(i%1000))
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "refreshes/s")
}
