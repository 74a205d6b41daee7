package compat

import (
	"context"
	"net/http"
	"testing"

	"github.com/coder/websocket"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// serveEcho is a WebSocket that answers what it is sent.
func serveEcho(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	defer conn.CloseNow()
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil || conn.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

func echo(ctx context.Context, conn *websocket.Conn) error {
	if err := conn.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		return err
	}
	_, _, err := conn.Read(ctx)
	return err
}

// A dialler that takes an http.Client gets the one with the Transport. The
// handshake is a GET, so a 401 is mended as for any other request, and the
// upgraded connection is handed over as it is.
//
// The token counts at the handshake only. A connection that is open stays open
// when it expires, unless the server closes it; the next Dial has a new one.
func TestWebSocketDialledWithTheClient(t *testing.T) {
	api := newStandIn(t)
	api.Handle("GET /socket", http.HandlerFunc(serveEcho))
	client := &http.Client{Transport: api.transport()}
	open, err := dialWithClient(t.Context(), client, api.URL+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	defer open.CloseNow()
	api.outlive(t, func(ctx context.Context) error {
		conn, err := dialWithClient(ctx, client, api.URL+"/socket")
		if err != nil {
			return err
		}
		defer conn.CloseNow()
		return echo(ctx, conn)
	})
	if err := echo(t.Context(), open); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
}

// dialWithClient dials by the http.Client with the Transport.
func dialWithClient(ctx context.Context, client *http.Client, url string) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client})
	return conn, err
}

// A dialler that takes no http.Client gets the headers, or a token to send in
// its first message, from Transport.Session, which refreshes what is due.
//
// Care: Session goes by the clock and cannot know that the server has revoked
// a token. After a 401 make a cheap request through the Transport, which has
// the session refreshed, and dial once more.
func TestWebSocketDialledWithHeaders(t *testing.T) {
	api := newStandIn(t)
	api.Handle("GET /socket", http.HandlerFunc(serveEcho))
	transport := api.transport()
	dial := func(ctx context.Context) (*websocket.Conn, *http.Response, error) {
		header, err := handshakeHeader(ctx, transport)
		if err != nil {
			return nil, nil, err
		}
		return websocket.Dial(ctx, api.URL+"/socket", &websocket.DialOptions{HTTPHeader: header})
	}

	api.outlive(t, func(ctx context.Context) error {
		conn, resp, err := dial(ctx)
		if resp != nil && resp.StatusCode == http.StatusUnauthorized {
			if err := api.get(ctx, &http.Client{Transport: transport}, "/wallets"); err != nil {
				return err
			}
			conn, _, err = dial(ctx)
		}
		if err != nil {
			return err
		}
		defer conn.CloseNow()
		return echo(ctx, conn)
	})
	if n := api.Requests(walletauthtest.ListWallets); n != 2 {
		t.Errorf("%d requests to have it refreshed, want the one after the revocation, sent again", n)
	}
}

// handshakeHeader is what a request of the session of ctx carries.
func handshakeHeader(ctx context.Context, transport *walletauth.Transport) (http.Header, error) {
	session, err := transport.Session(ctx)
	if err != nil {
		return nil, err
	}
	header := make(http.Header)
	header.Set("Authorization", "Bearer "+session.AccessToken)
	header.Set("X-WalletKit-Project-ID", session.ProjectID)
	header.Set("X-WalletKit-Token-Source", "walletkit")
	return header, nil
}
