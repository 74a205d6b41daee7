//go:build linux

package remotetest

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// MariaDB is a mariadbd on a socket of its own. What it holds stays in its
// folder, from one Start to the next.
type MariaDB struct {
	*Service
	Socket          string
	program, folder string
	uid             uint32
}

// NewMariaDB makes a database, with the program that it finds or installs, and
// starts nothing yet.
func NewMariaDB() (*MariaDB, error) {
	folder, err := Folder()
	if err != nil {
		return nil, err
	}
	return NewMariaDBIn(folder)
}

// NewMariaDBIn is NewMariaDB with a folder of the caller's.
func NewMariaDBIn(folder string) (*MariaDB, error) {
	program, err := Find("mariadbd", "mariadb-server", "/usr/sbin")
	if err != nil {
		return nil, err
	}
	m := &MariaDB{Socket: filepath.Join(folder, "mariadb.sock"), program: program, folder: folder}
	if m.uid, err = own(folder, "mysql"); err != nil {
		return nil, err
	}
	template, err := mariadbData()
	if err == nil {
		err = run(m.uid, "cp", "-a", template, m.data())
	}
	if err != nil {
		return nil, err
	}
	return m, os.WriteFile(m.init(), []byte("CREATE DATABASE IF NOT EXISTS walletauth;\n"), 0o644)
}

// mariadbData is the data of a server that has not been used yet, to be copied:
// to make it takes seconds.
var mariadbData = sync.OnceValues(func() (string, error) {
	folder, err := Folder()
	if err != nil {
		return "", err
	}
	uid, err := own(folder, "mysql")
	if err != nil {
		return "", err
	}
	data := filepath.Join(folder, "data")
	return data, run(uid, "mariadb-install-db", "--no-defaults", "--datadir="+data, "--tmpdir="+folder,
		"--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M", "--innodb-flush-method=nosync")
})

func run(uid uint32, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	cmd.Dir = "/"
	cmd.SysProcAttr = asUser(uid)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return nil
}

func (m *MariaDB) init() string { return filepath.Join(m.folder, "init.sql") }

func (m *MariaDB) data() string { return filepath.Join(m.folder, "data") }

// DSN is what the driver github.com/go-sql-driver/mysql takes.
func (m *MariaDB) DSN() string { return "root@unix(" + m.Socket + ")/walletauth" }

// Start starts it with what it held before. If that fails, the Service that has
// ended stays. What was committed survives a Crash, though not one of the
// machine.
func (m *MariaDB) Start(args ...string) error {
	args = append([]string{"--no-defaults", "--datadir=" + m.data(), "--tmpdir=" + m.folder, "--socket=" + m.Socket,
		"--pid-file=" + filepath.Join(m.folder, "pid"), "--init-file=" + m.init(), "--skip-networking", "--max-connections=300",
		"--innodb-flush-log-at-trx-commit=2", "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M"}, args...)
	service, err := StartService(m.uid, m.greets, m.program, args...)
	if err == nil {
		m.Service = service
	}
	return err
}

// greets reports whether it answers, by hand, so that the module needs no client:
// the server speaks first, with a packet whose fifth byte is the version of the
// protocol.
func (m *MariaDB) greets() error {
	conn, err := net.DialTimeout("unix", m.Socket, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	var packet [5]byte
	if _, err := io.ReadFull(conn, packet[:]); err != nil {
		return err
	}
	if packet[4] != 10 {
		return fmt.Errorf("the server greets with %x", packet)
	}
	return nil
}

// Crash ends it at once: what was under way is lost.
func (m *MariaDB) Crash() { m.Stop(syscall.SIGKILL) }
