package recipes

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// newTableStore keeps sessions in a column of a table that is there already.
// The statements are for PostgreSQL.
func newTableStore(db *sql.DB, codec walletauth.Codec) *walletauth.FuncStore {
	return &walletauth.FuncStore{
		LoadFunc: func(ctx context.Context, user string) (*walletauth.Session, error) {
			var row []byte
			err := db.QueryRowContext(ctx, `SELECT walletkit_session FROM users WHERE id = $1`, user).Scan(&row)
			if errors.Is(err, sql.ErrNoRows) || err == nil && row == nil {
				return nil, walletauth.ErrNoSession
			}
			if err != nil {
				return nil, err
			}
			return codec.Decode(user, row)
		},
		SaveFunc: func(ctx context.Context, user string, s *walletauth.Session) error {
			var row []byte // NULL: logged out
			if s != nil {
				var err error
				if row, err = codec.Encode(user, s); err != nil {
					return err
				}
			}
			_, err := db.ExecContext(ctx, `UPDATE users SET walletkit_session = $1 WHERE id = $2`, row, user)
			return err
		},
	}
}

func TestTableStore(t *testing.T) {
	walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore {
		db := sql.OpenDB(&usersTable{rows: make(map[string][]byte)})
		t.Cleanup(func() { _ = db.Close() })
		return newTableStore(db, walletauth.JSONCodec{})
	})
}
