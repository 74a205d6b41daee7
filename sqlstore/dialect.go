package sqlstore

import (
	"context"
	"errors"
	"regexp"
	"strings"
)

// dialect is in what databases differ.
type dialect struct {
	name  Dialect
	quote string // around a name
	// now is the clock of the server, in microseconds since 1970. Columns are
	// such integers too: a TIMESTAMP would pass through the time zone of the
	// connection, and a driver parses one only if it is told to.
	now string
	// insert adds a row unless it is there.
	insert string
	// tells is that a connection can be asked at no cost whether others have
	// changed anything.
	tells bool
	// oneWriter is that there can be one at a time.
	oneWriter bool
	// transient says of an error that the server itself answered with whether
	// the same statement may succeed in a moment.
	transient func(text string) (isTransient, isAnswer bool)
}

var dialects = map[Dialect]dialect{
	MySQL: {
		name:  MySQL,
		quote: "`",
		// Both are DATETIMEs without a time zone, so that no change to summer time
		// is in between.
		now:       "TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6))",
		insert:    "INSERT IGNORE",
		transient: mysqlTransient,
	},
	SQLite: {
		name:      SQLite,
		quote:     `"`,
		now:       "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
		insert:    "INSERT OR IGNORE",
		tells:     true,
		oneWriter: true,
		transient: sqliteTransient,
	},
}

// quoted is the name of a table, with a schema if there is a dot.
func (d dialect) quoted(table string) string {
	parts := strings.Split(table, ".")
	for i, part := range parts {
		parts[i] = d.quote + strings.ReplaceAll(part, d.quote, d.quote+d.quote) + d.quote
	}
	return strings.Join(parts, ".")
}

// Drivers are the program's, so that their types cannot be asked: both write
// down what the server answered in its own words.
var mysqlAnswer = regexp.MustCompile(`\bError (\d+)(?: \(([0-9A-Z]{5})\))?: `)

// mysqlTransient goes by the numbers of MySQL and MariaDB, as most of what passes
// has no SQLSTATE but HY000.
func mysqlTransient(text string) (isTransient, isAnswer bool) {
	answer := mysqlAnswer.FindStringSubmatch(text)
	if answer == nil {
		return false, false
	}
	if state := answer[2]; state != "" && (state[:2] == "08" || state[:2] == "40" || state[:2] == "70") {
		return true, true // connection, rollback, interrupted
	}
	const passing = " " +
		"1021 1041 1114 1037 1038 " + // disk, memory or table full
		"1040 1203 1226 1129 1135 " + // too many connections, or no thread for one
		"1205 1213 1180 1412 1613 " + // locks, and commits that failed
		"1053 1077 1079 1152 1158 1159 1160 1161 1184 1927 " + // shutdown, network
		"3032 3168 3169 4031 " + // the same, as MySQL 8 has them besides: offline, killed, disconnected when idle
		"1290 1792 1836 1047 3100 3101 " + // read-only, or no member of the cluster for the moment
		"1317 1969 3024 " // interrupted, or out of time
	return strings.Contains(passing, " "+answer[1]+" "), true
}

// sqliteTransient goes by the texts of sqlite3_errstr, which all drivers put
// into theirs.
func sqliteTransient(text string) (isTransient, isAnswer bool) {
	for _, passing := range []string{
		"database is locked", "database table is locked", "locking protocol", "interrupted",
		"database or disk is full", "disk I/O error", "unable to open database file", "out of memory",
	} {
		if strings.Contains(text, passing) {
			return true, true
		}
	}
	return false, true // there is no network that could fail instead
}

// Transient reports whether err is a failure of the network, or of a server
// that is starting, stopping, overloaded, out of disk or no primary for the
// moment, or of a file that another process writes to.
func (s *server) Transient(err error) bool {
	switch isTransient, isAnswer := s.dialect.transient(err.Error()); {
	case isTransient, errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return true
	case strings.Contains(err.Error(), "sql: database is closed"):
		return false
	default:
		return !isAnswer
	}
}
