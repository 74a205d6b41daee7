//go:build linux

package sqlstore_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/sqlstore"
)

// TestReadmeStatements: the rights that the README grants suffice, and its query
// finds a user's row.
func TestReadmeStatements(t *testing.T) {
	dsn := ownServer(t).DSN()
	admin := openStore(t, migrated(t, "mysql|"+dsn+"|"), 2)
	query, grants := remotetest.ReadmeStatements(t)
	for _, statement := range append([]string{"CREATE USER app@localhost"}, grants...) {
		exec(t, admin, statement)
	}
	exerciseAsApp(t, openStore(t, "mysql|"+strings.Replace(dsn, "root@", "app@", 1)+"|", 2))
	var expires, updated string
	var lease *int64
	if err := admin.DB.QueryRow(query).Scan(&expires, &updated, &lease); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if year := time.Now().UTC().Format("2006-"); !strings.HasPrefix(updated, year) || expires < updated || lease != nil {
		t.Errorf("the row of a session that was just saved: %q, %q, %v", expires, updated, lease)
	}
}

// TestReadmeQueryOfSQLite: the name of a key is what sha256sum makes of it, and
// finds its row.
func TestReadmeQueryOfSQLite(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	query := regexp.MustCompile(`(?m)^    sqlite3 app.db "(.*)"$`).FindSubmatch(page)
	if query == nil {
		t.Fatal("the README has no query")
	}
	s := openStore(t, migrated(t, inSQLite(t)), 2)
	save(t, s, "user-42", "1")
	var expires string
	if err := s.DB.QueryRow(strings.ReplaceAll(string(query[1]), "$hash", s.KeyName("user-42"))).Scan(&expires); err != nil {
		t.Fatalf("%s: %v", query[1], err)
	}
	if now := time.Now().UTC().Format(time.DateTime); expires <= now {
		t.Errorf("a session that was just saved expires at %s, and it is %s", expires, now)
	}
}

func exerciseAsApp(t *testing.T, store *sqlstore.Store) {
	for _, key := range []string{"user-42", "user-43"} {
		save(t, store, key, "1")
		save(t, store, key, "2")
	}
	if err := walletauth.Delete(t.Context(), store, "user-43"); err != nil {
		t.Error(err)
	}
	exec(t, store, "UPDATE TABLE_NAME SET updated_at = 0 WHERE key_hash = ?", hashOf("user-43"))
	if n, err := store.Purge(t.Context()); n != 1 || err != nil {
		t.Errorf("Purge: %d, %v", n, err)
	}
}
