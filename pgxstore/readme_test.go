//go:build linux

package pgxstore_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/pgxstore"
)

// TestReadmeStatements: the rights that the README grants suffice, and its query
// finds a user's row.
func TestReadmeStatements(t *testing.T) {
	url := ownServer(t).URL()
	admin := openStore(t, url+"|", 2)
	if err := admin.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	query, grants := readmeStatements(t)
	for _, statement := range append([]string{"CREATE ROLE app LOGIN"}, grants...) {
		if _, err := admin.Pool.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	exerciseAsApp(t, openStore(t, strings.Replace(url, "user=postgres", "user=app", 1)+"|", 2))
	var expires, updated time.Time
	var lease *time.Time
	if err := admin.Pool.QueryRow(t.Context(), query).Scan(&expires, &updated, &lease); err != nil {
		t.Errorf("%s: %v", query, err)
	}
}

func exerciseAsApp(t *testing.T, store *pgxstore.Store) {
	for _, key := range []string{"user-42", "user-43"} {
		save(t, store, key, "1")
		save(t, store, key, "2")
	}
	if err := walletauth.Delete(t.Context(), store, "user-43"); err != nil {
		t.Error(err)
	}
	if _, err := store.Purge(t.Context()); err != nil {
		t.Error(err)
	}
}

// readmeStatements returns the statements in the README: one to look, the others
// to grant.
func readmeStatements(t *testing.T) (query string, grants []string) {
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
