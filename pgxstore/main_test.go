//go:build linux

package pgxstore_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/remote/remotetest"
	"github.com/walletauth/walletauth/pgxstore"
)

// A place is a PostgreSQL and a table, as "url|table".
func open(place string, lease time.Duration) (walletauth.TokenStore, error) {
	url, table, _ := strings.Cut(place, "|")
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		return nil, err
	}
	return &pgxstore.Store{Pool: pool, Table: table, Lease: lease}, nil
}

const urlEnv = "WALLETAUTH_POSTGRES_URL"

func TestMain(m *testing.M) { remotetest.Main(m, open) }

// postgresURL is the PostgreSQL of all tests that do not need one of their
// own: the one that the environment names, or one that is started for them.
func postgresURL(t testing.TB) string {
	t.Helper()
	url, err := sharedURL()
	if err != nil {
		t.Fatal(err)
	}
	return url
}

var sharedURL = sync.OnceValues(func() (string, error) {
	if url := os.Getenv(urlEnv); url != "" {
		return url, nil
	}
	s, err := newServer()
	if err != nil {
		return "", err
	}
	return s.url, s.start()
})

// server is a PostgreSQL on a socket of its own.
type server struct {
	program, folder, url string
	uid                  uint32
	service              *remotetest.Service
}

// newServer makes the files of a database. They belong to the user postgres if
// the test runs as root, whom PostgreSQL refuses.
func newServer() (*server, error) {
	const debian = "/usr/lib/postgresql/*/bin"
	program, err := remotetest.Find("postgres", "postgresql", debian)
	if err != nil {
		return nil, err
	}
	s := &server{program: program}
	if s.folder, s.uid, err = ownedFolder(); err != nil {
		return nil, err
	}
	s.url = fmt.Sprintf("host=%s user=postgres dbname=postgres sslmode=disable", s.folder)
	initdb := exec.Command(filepath.Join(filepath.Dir(program), "initdb"),
		"-D", filepath.Join(s.folder, "data"), "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C")
	initdb.Dir = s.folder
	if s.uid != 0 {
		initdb.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.uid, Gid: s.uid}}
	}
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return s, nil
}

// ownedFolder makes a folder for a server that refuses to run as root, and
// says as whom to run it; 0: as who runs the test.
func ownedFolder() (folder string, uid uint32, err error) {
	if folder, err = remotetest.Folder(); err != nil || os.Geteuid() != 0 {
		return folder, 0, err
	}
	postgres, err := user.Lookup("postgres")
	if err != nil {
		return "", 0, err
	}
	id, err := strconv.Atoi(postgres.Uid)
	if err != nil {
		return "", 0, err
	}
	return folder, uint32(id), os.Chown(folder, id, id)
}

// start starts it with what it held before.
func (s *server) start() (err error) {
	s.service, err = remotetest.StartService(s.uid, func() error { return ping(s.url) },
		s.program, "-D", filepath.Join(s.folder, "data"), "-k", s.folder,
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=300")
	return err
}

// stop stops it as a crash would: what was under way is lost.
func (s *server) stop() { s.service.Stop(syscall.SIGQUIT) }

func ping(url string) error {
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	return conn.Ping(context.Background())
}

// ownServer is a PostgreSQL for one test, which may stop it.
func ownServer(t *testing.T) *server {
	t.Helper()
	s, err := newServer()
	if err != nil && os.Getenv(urlEnv) != "" {
		t.Skipf("the PostgreSQL of %s is not the test's to stop, and there is no other: %v", urlEnv, err)
	}
	if err == nil {
		err = s.start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	return s
}

// bouncer starts a PgBouncer in transaction mode in front of the PostgreSQL at
// folder and returns its URL.
func bouncer(t *testing.T, s *server) string {
	t.Helper()
	program, err := remotetest.Find("pgbouncer", "pgbouncer", "/usr/sbin")
	if err != nil {
		t.Fatal(err)
	}
	folder, uid, err := ownedFolder()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(folder, "pgbouncer.ini")
	text := fmt.Sprintf(`[databases]
* = host=%s user=postgres
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = %s
auth_type = any
pool_mode = transaction
default_pool_size = 5
max_client_conn = 200
`, s.folder, folder)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("host=%s port=6432 user=postgres dbname=postgres sslmode=disable default_query_exec_mode=exec", folder)
	service, err := remotetest.StartService(uid, func() error { return ping(url) }, program, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { service.Stop(syscall.SIGKILL) })
	return strings.TrimSuffix(url, " default_query_exec_mode=exec")
}

var tables atomic.Int64

// place is a table that no other test uses.
func place(t testing.TB, url string) string {
	t.Helper()
	place := fmt.Sprintf("%s|test_%d_%d", url, os.Getpid(), tables.Add(1))
	s, err := open(place, 0)
	if err != nil {
		t.Fatal(err)
	}
	store := s.(*pgxstore.Store)
	if err := store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		defer store.Pool.Close()
		_, _ = store.Pool.Exec(context.Background(), "DROP TABLE "+store.Table) // the server may have been stopped
	})
	return place
}

func openStore(t testing.TB, place string, conns int32) *pgxstore.Store {
	t.Helper()
	url, table, _ := strings.Cut(place, "|")
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &pgxstore.Store{Pool: pool, Table: table}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newStore(t testing.TB) *pgxstore.Store {
	t.Helper()
	return openStore(t, place(t, postgresURL(t)), 10)
}

func save(t testing.TB, s walletauth.TokenStore, key, id string) {
	t.Helper()
	if err := walletauth.Save(context.Background(), s, key, remotetest.Session(id)); err != nil {
		t.Fatal(err)
	}
}
