package recipes

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"net/http"
	"net/http/httptest"
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

// logInVisitor logs a visitor in and gives the browser a cookie that says who it
// is. Whoever knows the value acts as that visitor, so it is random, new with
// every login, and not for scripts or plain http.
func logInVisitor(w http.ResponseWriter, r *http.Request, client *http.Client) error {
	visitor := rand.Text() // of crypto/rand
	ctx := walletauth.WithKey(r.Context(), "visitor "+visitor)
	if err := loginAnonymously(ctx, client); err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{
		Name: "visitor", Value: visitor, Path: "/", MaxAge: 30 * 24 * 60 * 60,
		HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode,
	})
	return nil
}

// cookieKey finds the key of a later request.
func cookieKey(r *http.Request) string {
	cookie, err := r.Cookie("visitor")
	if err != nil {
		return "no visitor" // under which nothing is ever saved
	}
	return "visitor " + cookie.Value
}

func TestCookieKey(t *testing.T) {
	client := newLoginClient(&walletauth.MemoryStore{})
	page := func(incoming *http.Request) error {
		return listWallets(walletauth.WithKey(incoming.Context(), cookieKey(incoming)), client)
	}
	incoming, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := page(incoming); !errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("without a cookie: %v", err)
	}
	answer := httptest.NewRecorder()
	if err := logInVisitor(answer, incoming, client); err != nil {
		t.Fatal(err)
	}
	for _, cookie := range answer.Result().Cookies() {
		incoming.AddCookie(cookie)
	}
	if err := page(incoming); err != nil {
		t.Error(err)
	}
}
