package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	_ "github.com/go-sql-driver/mysql"
	_ "modernc.org/sqlite"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/sqlstore"
)

// startMariaDB starts a server of its own on a socket in a folder below dir.
func startMariaDB(dir string) (string, func(), error) {
	program, err := findMariaDB()
	if err != nil {
		return "", nil, err
	}
	folder := filepath.Join(dir, "mariadb")
	as, err := ownedFolder(folder, "mysql")
	if err != nil {
		return "", nil, err
	}
	data, socket := "--datadir="+filepath.Join(folder, "data"), filepath.Join(folder, "socket")
	install := exec.Command("mariadb-install-db", "--no-defaults", data, "--auth-root-authentication-method=normal")
	server := exec.Command(program, "--no-defaults", data, "--socket="+socket, "--skip-networking", "--max-connections=400")
	for _, c := range []*exec.Cmd{install, server} {
		c.Dir, c.SysProcAttr = folder, as
	}
	if out, err := install.CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("mariadb-install-db: %w\n%s", err, out)
	}
	stop, err := serve(server, socket, syscall.SIGTERM)
	if err != nil {
		return "", nil, err
	}
	source := "root@unix(" + socket + ")/test?interpolateParams=true"
	if err := migrateSQL(sqlstore.MySQL, source); err != nil {
		stop()
		return "", nil, err
	}
	return source, stop, nil
}

// findMariaDB looks where Debian hides it from users too.
func findMariaDB() (string, error) {
	for _, name := range []string{"mariadbd", "/usr/sbin/mariadbd"} {
		if program, err := exec.LookPath(name); err == nil {
			return program, nil
		}
	}
	return "", errAbsent{"mariadbd"}
}

// startSQLite makes a file that waits for its disk.
func startSQLite(dir string) (string, func(), error) {
	source := "file:" + filepath.Join(dir, "sessions.db") + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)"
	return source, func() {}, migrateSQL(sqlstore.SQLite, source)
}

func openSQL(dialect sqlstore.Dialect, source string) (*sqlstore.Store, error) {
	db, err := sql.Open(string(dialect), source) // the drivers are named like the dialects
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4)
	db.SetMaxIdleConns(4)
	return &sqlstore.Store{DB: db, Dialect: dialect}, nil
}

func migrateSQL(dialect sqlstore.Dialect, source string) error {
	store, err := openSQL(dialect, source)
	if err != nil {
		return err
	}
	defer store.DB.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		// It may still be starting up.
		if err = store.DB.Ping(); err == nil || time.Now().After(deadline) {
			break
		}
	}
	return errors.Join(err, store.Migrate(context.Background()), store.Close())
}

func openMariaDB(source string) (walletauth.TokenStore, error) {
	return openSQL(sqlstore.MySQL, source)
}

func openSQLite(source string) (walletauth.TokenStore, error) {
	return openSQL(sqlstore.SQLite, source)
}
