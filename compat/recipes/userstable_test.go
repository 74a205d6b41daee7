package recipes

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"sync"
)

// usersTable is a database with the one table of the recipe, which it takes
// to have a row for every user, and that understands its two statements.
type usersTable struct {
	mu   sync.Mutex // guards rows
	rows map[string][]byte
}

func (d *usersTable) Connect(context.Context) (driver.Conn, error) { return usersConn{d}, nil }
func (d *usersTable) Driver() driver.Driver                        { return nil }

type usersConn struct{ table *usersTable }

func (usersConn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (usersConn) Begin() (driver.Tx, error)           { return nil, errors.ErrUnsupported }
func (usersConn) Close() error                        { return nil }

func (c usersConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if !strings.HasPrefix(query, "SELECT walletkit_session") {
		return nil, errors.ErrUnsupported
	}
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	return &oneRow{value: c.table.rows[args[0].Value.(string)]}, ctx.Err()
}

func (c usersConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if !strings.HasPrefix(query, "UPDATE users SET walletkit_session") {
		return nil, errors.ErrUnsupported
	}
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.table.rows[args[1].Value.(string)], _ = args[0].Value.([]byte)
	return driver.RowsAffected(1), ctx.Err()
}

type oneRow struct {
	value []byte
	read  bool
}

func (*oneRow) Columns() []string { return []string{"walletkit_session"} }
func (*oneRow) Close() error      { return nil }

func (r *oneRow) Next(into []driver.Value) error {
	if r.read {
		return io.EOF
	}
	r.read = true
	if r.value != nil {
		into[0] = r.value
	}
	return nil
}
