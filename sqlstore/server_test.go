package sqlstore

import (
	"context"
	"errors"
	"io"
	"testing"
)

// The texts are those of go-sql-driver/mysql, modernc.org/sqlite and
// mattn/go-sqlite3.
func TestTransient(t *testing.T) {
	for _, c := range []struct {
		dialect Dialect
		text    string
		want    bool
	}{
		{MySQL, "Error 1213 (40001): Deadlock found when trying to get lock; try restarting transaction", true},
		{MySQL, "Error 1205 (HY000): Lock wait timeout exceeded; try restarting transaction", true},
		{MySQL, "Error 1040 (08004): Too many connections", true},
		{MySQL, "Error 1053 (08S01): Server shutdown in progress", true},
		{MySQL, "Error 1290 (HY000): The MariaDB server is running with the --read-only option so it cannot execute this statement", true},
		{MySQL, "Error 1114 (HY000): The table 'walletauth_sessions' is full", true},
		{MySQL, "Error 1047 (08S01): WSREP has not yet prepared node for application use", true},
		{MySQL, "Error 3032 (HY000): The server is currently in offline mode", true},
		{MySQL, "Error 4031 (HY000): The client was disconnected by the server because of inactivity. See wait_timeout and interactive_timeout for configuring this behavior.", true},
		{MySQL, "invalid connection", true},
		{MySQL, "dial tcp 127.0.0.1:3306: connect: connection refused", true},
		{MySQL, "Error 1146 (42S02): Table 'test.missing' doesn't exist", false},
		{MySQL, "Error 1142 (42000): SELECT command denied to user 'app'@'localhost' for table `test`.`walletauth_sessions`", false},
		{MySQL, "Error 1045 (28000): Access denied for user 'app'@'localhost' (using password: NO)", false},
		{MySQL, "Error 1054 (42S22): Unknown column 'version' in 'field list'", false},
		{MySQL, "sql: database is closed", false},
		{SQLite, "database is locked (5) (SQLITE_BUSY)", true},
		{SQLite, "database is locked", true},
		{SQLite, "database or disk is full (13)", true},
		{SQLite, "disk I/O error (778)", true},
		{SQLite, "SQL logic error: no such table: walletauth_sessions (1)", false},
		{SQLite, "no such table: walletauth_sessions", false},
		{SQLite, "attempt to write a readonly database (8)", false},
		{SQLite, "database disk image is malformed (11)", false},
		{SQLite, "sql: database is closed", false},
	} {
		if got := newServer(nil, dialects[c.dialect], "").Transient(errors.New(c.text)); got != c.want {
			t.Errorf("%s: %s: %v, want %v", c.dialect, c.text, got, c.want)
		}
	}
	for _, err := range []error{context.DeadlineExceeded, context.Canceled} {
		if !newServer(nil, dialects[SQLite], "").Transient(err) {
			t.Errorf("%v is not transient", err)
		}
	}
	if !newServer(nil, dialects[MySQL], "").Transient(io.ErrUnexpectedEOF) {
		t.Error("a connection that breaks is not transient")
	}
}
