//go:build linux

package pgxstore_test

import (
	"crypto/rand"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
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
	query, grants := remotetest.ReadmeStatements(t)
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

// TestReadmeSettings: with the settings of the README, long sessions stay out of
// the TOAST table.
func TestReadmeSettings(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	setting := regexp.MustCompile(`ALTER TABLE walletauth_sessions ([^;]*);`).FindSubmatch(page)
	if setting == nil {
		t.Fatal("the README has no settings")
	}
	toasted := func(settings string) (size int) {
		s := newStore(t)
		if settings != "" {
			if _, err := s.Pool.Exec(t.Context(), "ALTER TABLE "+s.Table+" "+settings); err != nil {
				t.Fatal(err)
			}
		}
		for range 20 {
			session := remotetest.Session("long")
			for range 100 {
				session.AccessToken += rand.Text() // 2,600 bytes that do not compress well
			}
			if err := walletauth.Save(t.Context(), s, "user", session); err != nil {
				t.Fatal(err)
			}
		}
		row := s.Pool.QueryRow(t.Context(), "SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = to_regclass($1)", s.Table)
		if err := row.Scan(&size); err != nil {
			t.Fatal(err)
		}
		return size
	}
	if size := toasted(""); size == 0 {
		t.Error("without the settings nothing is in the TOAST table: this proves nothing")
	}
	if size := toasted(string(setting[1])); size != 0 {
		t.Errorf("with the settings of the README %d bytes are in the TOAST table", size)
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
