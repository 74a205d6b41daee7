package main

import (
	"database/sql"
	"errors"
	"os/exec"
	"path/filepath"
	"syscall"

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
	data, socket := "--datadir="+filepath.Join(folder, "data"), filepath.Join(folder, "socket")
	source := "root@unix(" + socket + ")/test?interpolateParams=true"
	stop, err := database{
		folder: folder, owner: "mysql", socket: socket, signal: syscall.SIGTERM,
		install: exec.Command("mariadb-install-db", "--no-defaults", data, "--auth-root-authentication-method=normal"),
		server:  exec.Command(program, "--no-defaults", data, "--socket="+socket, "--skip-networking", "--max-connections=400"),
		migrate: func() error { return migrateSQL(sqlstore.MySQL, source) },
	}.start()
	return source, stop, err
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
	return errors.Join(onceUp(store.DB.PingContext, store.Migrate), store.Close())
}

func openMariaDB(source string) (walletauth.TokenStore, error) {
	return openSQL(sqlstore.MySQL, source)
}

func openSQLite(source string) (walletauth.TokenStore, error) {
	return openSQL(sqlstore.SQLite, source)
}
