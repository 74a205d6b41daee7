//go:build linux

package remotetest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Postgres is a PostgreSQL on a socket of its own. What it holds stays in its
// folder, from one Start to the next.
type Postgres struct {
	*Service
	Folder  string // of the socket, and of the data
	program string
	uid     uint32
}

// NewPostgres makes a database, with the program that it finds or installs, and
// starts nothing yet.
func NewPostgres() (*Postgres, error) {
	folder, err := Folder()
	if err != nil {
		return nil, err
	}
	return NewPostgresIn(folder)
}

// NewPostgresIn is NewPostgres with a folder of the caller's, and more
// arguments for initdb.
func NewPostgresIn(folder string, args ...string) (*Postgres, error) {
	p, err := newPostgres(folder)
	if err != nil {
		return nil, err
	}
	if len(args) > 0 {
		return p, p.initdb(args...)
	}
	data, err := template()
	if err != nil {
		return nil, err
	}
	if out, err := exec.Command("cp", "-a", data, p.data()).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy a database: %w\n%s", err, out)
	}
	return p, nil
}

// newPostgres finds the program, and makes no database.
func newPostgres(folder string) (*Postgres, error) {
	program, err := Find("postgres", "postgresql", PostgresPlace)
	if err != nil {
		return nil, err
	}
	uid, err := own(folder, "postgres")
	return &Postgres{Folder: folder, program: program, uid: uid}, err
}

// PostgresPlace is where Debian has PostgreSQL's programs.
const PostgresPlace = "/usr/lib/postgresql/*/bin"

// template is a database that was never started, made once: to copy it takes a
// fraction of the time.
var template = sync.OnceValues(func() (data string, err error) {
	folder, err := Folder()
	if err != nil {
		return "", err
	}
	p, err := newPostgres(folder)
	if err != nil {
		return "", err
	}
	return p.data(), p.initdb()
})

func (p *Postgres) data() string { return filepath.Join(p.Folder, "data") }

func (p *Postgres) initdb(args ...string) error {
	cmd := p.command("initdb", append([]string{
		"-D", p.data(), "-A", "trust", "-U", "postgres", "-N", "-E", "UTF8", "--locale=C"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return nil
}

// command is a program that comes with the server, run as its user.
func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(filepath.Dir(p.program), name), args...)
	cmd.Dir = p.Folder
	cmd.SysProcAttr = asUser(p.uid)
	return cmd
}

// URL is what pgxpool.New takes.
func (p *Postgres) URL() string {
	return fmt.Sprintf("host=%s user=postgres dbname=postgres sslmode=disable", p.Folder)
}

// Socket is where it listens.
func (p *Postgres) Socket() string { return filepath.Join(p.Folder, ".s.PGSQL.5432") }

// Start starts it with what it held before. If that fails, the Service that has
// ended stays.
func (p *Postgres) Start(args ...string) error {
	args = append([]string{"-D", p.data(), "-k", p.Folder,
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=300"}, args...)
	ready := func() error { return p.command("pg_isready", "-q", "-h", p.Folder).Run() }
	service, err := StartService(p.uid, ready, p.program, args...)
	if err == nil {
		p.Service = service
	}
	return err
}

// Crash ends it at once: what was under way is lost.
func (p *Postgres) Crash() { p.Stop(syscall.SIGQUIT) }

// OwnedFolder is Folder for a server that refuses to run as root, and says as
// whom to run it; 0: as who runs the test.
func OwnedFolder() (folder string, uid uint32, err error) {
	if folder, err = Folder(); err == nil {
		uid, err = own(folder, "postgres")
	}
	return folder, uid, err
}

// own gives a folder to the user of a server if the test runs as root.
func own(folder, name string) (uid uint32, err error) {
	if os.Geteuid() != 0 {
		return 0, nil
	}
	owner, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	id, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return 0, err
	}
	return uint32(id), os.Chown(folder, id, id)
}

func asUser(uid uint32) *syscall.SysProcAttr {
	if uid == 0 {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}
