// Package sqlstore keeps WalletKit sessions in MySQL, MariaDB or SQLite, for
// programs that have one of them already: a session is refreshed once in all
// processes that share the database.
//
//	store := &sqlstore.Store{DB: db, Dialect: sqlstore.MySQL}
//	if err := store.Migrate(ctx); err != nil { // makes the table
//		return err
//	}
//	transport := &walletauth.Transport{Store: store}
//
// The driver is the program's: github.com/go-sql-driver/mysql and
// modernc.org/sqlite are tested.
//
// # What it promises
//
// A request costs no query: Load answers from a local copy. These databases do
// not tell of changes, so each process that has copies looks for them: in MySQL
// and MariaDB by one query every 100 milliseconds, in SQLite every 20
// milliseconds by a pragma that reads no table. While the database cannot be
// reached, copies serve on.
//
// An Update holds a lease with a fence, in columns of its row. No connection
// and no transaction is held meanwhile, and every statement is a transaction of
// its own. When its process dies, others wait for the rest of the lease. When it
// was only stopped, what it stores late is taken unless somebody else has stored
// something: then the newer stays, and fn is called again with it. Of two states
// of one login the later expiry stays.
package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote"
)

// Store is a [walletauth.TokenStore] in MySQL 8, MariaDB 10.6 or SQLite 3.35, or
// newer, for any number of processes. Set DB and Dialect, make the table once
// with Migrate, and nothing else is needed.
//
// It is safe for concurrent use. Fields must not be changed after first use,
// and a Store must not be copied. Share one in a process, as each keeps copies
// of its own.
//
// From its first use on it has two goroutines. In SQLite it also holds one
// connection of DB, unless DB may have only one. They end with Close, or by
// themselves once no session was asked for in 10 to 20 minutes.
type Store struct {
	// DB reaches the database, the primary if there are replicas. Required. The
	// caller closes it, after Close. Set its limits before the first use of the
	// Store.
	DB *sql.DB

	// Dialect is the language of the database: MySQL or SQLite. Required.
	Dialect Dialect

	// Table is the table of the sessions, with a schema and a dot before it if
	// that is not the connection's own. If empty, "walletauth_sessions". It is
	// quoted.
	Table string

	// Lease is for how long the process that runs an Update may be silent
	// before another may begin one of the same key. It is renewed at every
	// third of it. If zero or negative, 15 seconds. It is what others wait
	// after a crash; it does not bound an Update. Processes that share sessions
	// should have the same.
	Lease time.Duration

	// CacheFor is for how long a local copy is used while nothing vouches for
	// it, as the process could not look for changes. If zero, 5 seconds, and
	// more counts as 5 seconds. If negative, there are no copies: every Load
	// asks the database, and none is answered while it cannot be reached.
	//
	// It does not affect copies while looking for changes works: those are used
	// until they change.
	CacheFor time.Duration

	// MaxCopies bounds the local copies. If zero, 100,000; less than 2 counts as
	// 2. When there are as many, up to half of them make room, those used
	// longest ago. Those unused for 10 to 20 minutes are dropped. A copy takes
	// about 500 bytes and its tokens.
	MaxCopies int

	// Codec is how a session is written down. If nil, walletauth.JSONCodec,
	// which leaves the tokens readable to all who can read the table, the file
	// or a backup of it. walletauth.NewSealedCodec encrypts them.
	Codec walletauth.Codec

	once   sync.Once // sets what follows
	server *server
	core   *remote.Store
}

// Dialect is the SQL that a database understands.
type Dialect string

const (
	MySQL  Dialect = "mysql"  // and MariaDB
	SQLite Dialect = "sqlite" // in WAL mode, unless it is one process's alone
)

var (
	_ walletauth.TokenStore = (*Store)(nil)
	_ walletauth.Replacer   = (*Store)(nil)
)

var errNoDB = errors.New("sqlstore: Store.DB is nil")

// Load returns the session of key, from a local copy if that is known to be
// current. The Session is shared. Load does not wait for an Update.
//
// It returns an error that wraps [walletauth.ErrNoSession], or
// [walletauth.ErrUnreadable] if what is stored cannot be read; ctx's error; an
// error if DB is nil or Dialect is unknown; or the database's error, once it
// has lasted for 5 seconds and there is no copy to answer with.
func (s *Store) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	return s.core.Load(ctx, key)
}

// Update is [walletauth.TokenStore.Update]. The exclusion is a lease: see
// [Store.Lease]. While fn runs no connection is held. What fn returns is stored
// though ctx has ended meanwhile, and tried again for 15 seconds if the database
// cannot be reached. fn is called again if another process has stored something
// else meanwhile, because the lease was lost or its last holder was late.
//
// It returns fn's error as it is; ctx's error, if ctx ended before fn was
// called; an error that wraps [walletauth.ErrUnreadable]; an error if DB is
// nil or Dialect is unknown; the Codec's error, if it cannot encode; or the
// database's error, once it has lasted for 5 seconds. In all these cases the
// stored session stays, except that after an error of the database while
// storing either may be stored.
func (s *Store) Update(ctx context.Context, key string, fn func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error)) error {
	if err := s.begin(); err != nil {
		return err
	}
	return s.core.Update(ctx, key, fn)
}

// Replace is [walletauth.Replacer.Replace]: [walletauth.Save] and
// [walletauth.Delete] use it where the stored session cannot be read.
//
// It returns an error if DB is nil or Dialect is unknown; ctx's error, if ctx
// ended while waiting for the lease; the Codec's error, if it cannot encode s;
// or the database's error, once it has lasted for 5 seconds, or 15 while
// storing.
func (s *Store) Replace(ctx context.Context, key string, session *walletauth.Session) error {
	if err := s.begin(); err != nil {
		return err
	}
	return s.core.Replace(ctx, key, session)
}

// KeyName returns what the column key_hash holds for key: its SHA-256, here in
// hexadecimal, so that neither the table nor a backup shows a key. Support staff
// find a user's session by it:
//
//	SELECT updated_at FROM walletauth_sessions WHERE key_hash = x'$name'
func (s *Store) KeyName(key string) string {
	return hex.EncodeToString([]byte((*server)(nil).ID(key)))
}

// Close ends the goroutines, gives back the connection that they hold, and
// waits for both. It leaves DB open. It always returns nil, and may be called
// twice. The store can be used on, as if changes could not be looked for. Without
// Close they end by themselves: see [Store].
func (s *Store) Close() error {
	if s.begin() == nil {
		s.core.Close()
	}
	return nil
}

// begin sets what the methods work with, at the first call.
func (s *Store) begin() error {
	if s.DB == nil {
		return errNoDB
	}
	d, ok := dialects[s.Dialect]
	if !ok {
		return fmt.Errorf("sqlstore: Store.Dialect is %q, want sqlstore.MySQL or sqlstore.SQLite", s.Dialect)
	}
	s.once.Do(func() {
		s.server = newServer(s.DB, d, s.Table)
		conns := cmp.Or(s.DB.Stats().MaxOpenConnections, unlimited)
		if d.tells {
			conns-- // the one that is held to look for changes
		}
		s.core = remote.New(remote.Config{
			Name:   "sqlstore",
			Server: s.server,
			Codec:  s.Codec,
			Lease:  s.Lease,

			MaxStaleness: s.CacheFor,
			MaxCopies:    s.MaxCopies,
			MaxInFlight:  conns * 3 / 4, // the rest is left to others
		})
	})
	return nil
}

// unlimited is how many connections count on where DB sets no limit.
const unlimited = 16
