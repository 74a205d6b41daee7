package compat

import (
	"context"
	"net/http"
	"testing"

	"github.com/coder/websocket"

	"github.com/walletauth/walletauth"
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

// A dialer that takes an http.Client gets the one with the Transport. The handshake
// is a GET, so after a 401 it is sent again like any other request, and the upgraded
// connection is handed over as it is.
//
// The token counts at the handshake only. An open connection stays open when it
// expires, unless the server closes it; the next Dial has a new one.
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

// dialWithClient dials with the http.Client that has the Transport.
func dialWithClient(ctx context.Context, client *http.Client, url string) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client})
	return conn, err
}

// A dialer that takes no http.Client gets headers from Transport.Session. That goes
// by the clock and cannot know that the server has revoked a token: after a 401
// Renew has the session refreshed, once for all that ask.
func TestWebSocketDialledWithHeaders(t *testing.T) {
	api := newStandIn(t)
	api.Handle("GET /socket", http.HandlerFunc(serveEcho))
	transport := api.transport()
	api.outlive(t, func(ctx context.Context) error {
		return atOnce(make([]struct{}, 3), func(struct{}) error { // as after a server restart
			conn, err := dialWithHeader(ctx, transport, api.URL+"/socket")
			if err != nil {
				return err
			}
			defer conn.CloseNow()
			return echo(ctx, conn)
		})
	})
}

// dialWithHeader dials with a session's headers, and once more with a newer session
// if its token is refused.
func dialWithHeader(ctx context.Context, transport *walletauth.Transport, url string) (*websocket.Conn, error) {
	session, err := transport.Session(ctx)
	if err != nil {
		return nil, err
	}
	conn, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: handshakeHeader(session)})
	if resp == nil || resp.StatusCode != http.StatusUnauthorized {
		return conn, err
	}
	if session, err = transport.Renew(ctx, session); err != nil {
		return nil, err
	}
	conn, _, err = websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: handshakeHeader(session)})
	return conn, err
}

// handshakeHeader is what a request of the session carries.
func handshakeHeader(session *walletauth.Session) http.Header {
	header := make(http.Header)
	header.Set("Authorization", "Bearer "+session.AccessToken)
	header.Set("X-WalletKit-Project-ID", session.ProjectID)
	header.Set("X-WalletKit-Token-Source", "walletkit")
	return header
}
