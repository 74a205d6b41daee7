package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/pgxstore"
	"github.com/walletauth/walletauth/redisstore"
)

// kind is a store that processes share. Its place is a string, so that it can
// be told to another process.
type kind struct {
	name  string
	start func(dir string) (place string, stop func(), err error)
	open  func(place string) (walletauth.TokenStore, error)
}

var kinds = []kind{
	{"files", startFiles, openFiles},
	{"Redis", startRedis, openRedis},
	{"PostgreSQL", startPostgres, openPostgres},
	{"MariaDB", startMariaDB, openMariaDB},
	{"SQLite", startSQLite, openSQLite},
}

// errAbsent means that the server of a kind is not installed here.
type errAbsent struct{ program string }

func (e errAbsent) Error() string { return e.program + " is not installed" }

func startFiles(dir string) (string, func(), error) {
	return filepath.Join(dir, "sessions"), func() {}, nil
}

func openFiles(place string) (walletauth.TokenStore, error) {
	return &filestore.Store{Dir: place}, nil
}

// startRedis starts a server of its own on a socket in dir, which keeps
// nothing on disk.
func startRedis(dir string) (string, func(), error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return "", nil, errAbsent{"redis-server"}
	}
	socket := filepath.Join(dir, "redis.sock")
	stop, err := serve(exec.Command(program, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir), socket, os.Interrupt)
	return socket, stop, err
}

// serve starts a server and waits until it answers. The signal ends it though it
// has clients.
func serve(server *exec.Cmd, socket string, signal os.Signal) (stop func(), err error) {
	if err := server.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = server.Process.Signal(signal)
		_ = server.Wait() // whatever it says, nothing is kept
	}
	if err := listening(socket); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// listening waits until somebody answers at a socket.
func listening(socket string) (err error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var c net.Conn
		if c, err = net.Dial("unix", socket); err == nil {
			return c.Close()
		}
	}
	return err
}

func openRedis(socket string) (walletauth.TokenStore, error) {
	return &redisstore.Store{Client: redis.NewClient(&redis.Options{Network: "unix", Addr: socket})}, nil
}

// database is a server whose folder is prepared by a program of its own, and which
// holds the table of a store.
type database struct {
	folder, owner   string // the folder of the server, and the user it runs as
	install, server *exec.Cmd
	socket          string
	signal          os.Signal // ends the server though it has clients
	migrate         func() error
}

func (d database) start() (stop func(), err error) {
	as, err := ownedFolder(d.folder, d.owner)
	if err != nil {
		return nil, err
	}
	for _, c := range []*exec.Cmd{d.install, d.server} {
		c.Dir, c.SysProcAttr = d.folder, as
	}
	if out, err := d.install.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", filepath.Base(d.install.Path), err, out)
	}
	if stop, err = serve(d.server, d.socket, d.signal); err != nil {
		return nil, err
	}
	if err := d.migrate(); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// startPostgres starts a server of its own on a socket in a folder below dir.
func startPostgres(dir string) (string, func(), error) {
	program, err := findPostgres()
	if err != nil {
		return "", nil, err
	}
	folder := filepath.Join(dir, "postgres")
	data := filepath.Join(folder, "data")
	url := fmt.Sprintf("host=%s user=postgres dbname=postgres sslmode=disable pool_max_conns=4 pool_min_conns=2", folder)
	stop, err := database{
		folder: folder, owner: "postgres", socket: filepath.Join(folder, ".s.PGSQL.5432"), signal: os.Interrupt,
		install: exec.Command(filepath.Join(filepath.Dir(program), "initdb"), "-D", data, "-A", "trust", "-U", "postgres"),
		server:  exec.Command(program, "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "max_connections=400"),
		migrate: func() error { return migrate(url) },
	}.start()
	return url, stop, err
}

// findPostgres looks where Debian hides it too.
func findPostgres() (string, error) {
	places, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	if len(places) > 0 {
		return slices.Max(places), nil
	}
	if program, err := exec.LookPath("postgres"); err == nil {
		return program, nil
	}
	return "", errAbsent{"postgres"}
}

func migrate(url string) error {
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		return err
	}
	defer pool.Close()
	return onceUp(pool.Ping, (&pgxstore.Store{Pool: pool}).Migrate)
}

// onceUp makes the table of a store as soon as its server answers, which may still be
// starting up.
func onceUp(ping, migrate func(context.Context) error) (err error) {
	ctx := context.Background()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if err = ping(ctx); err == nil || time.Now().After(deadline) {
			return errors.Join(err, migrate(ctx))
		}
	}
}

func openPostgres(url string) (walletauth.TokenStore, error) {
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		return nil, err
	}
	return &pgxstore.Store{Pool: pool}, nil
}

// place is a kind that has been started.
type place struct {
	kind
	at   string
	stop func()
}

// startKinds starts the kinds that are installed here, and says of the others
// that they are not.
func startKinds() (places []place, stop func(), err error) {
	dir, err := os.MkdirTemp("", "walletauth-bench-")
	if err != nil {
		return nil, nil, err
	}
	stop = func() {
		for _, p := range places {
			p.stop()
		}
		_ = os.RemoveAll(dir) // a temporary folder
	}
	for _, k := range kinds {
		at, end, err := k.start(dir)
		if absent, ok := err.(errAbsent); ok {
			fmt.Fprintf(os.Stderr, "without %s: %s\n", k.name, absent)
			continue
		}
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("%s: %w", k.name, err)
		}
		places = append(places, place{k, at, end})
	}
	return places, stop, nil
}

// openPlace opens the store that a string "kind place" names.
func openPlace(s string) (walletauth.TokenStore, error) {
	name, at, _ := strings.Cut(s, " ")
	for _, k := range kinds {
		if k.name == name {
			return k.open(at)
		}
	}
	return nil, fmt.Errorf("no store %q", name)
}
