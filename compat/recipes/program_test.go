package recipes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	oskeyring "github.com/zalando/go-keyring"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/keyring"
)

// runTool is the body of a command.
func runTool(ctx context.Context, command func(context.Context, *http.Client) error) error {
	transport := &walletauth.Transport{
		Store:        &filestore.Store{App: "my-tool"}, // in the user's configuration folder
		ProjectID:    "my-project",
		BaseURL:      walletauth.Testnet,
		CaptureLogin: true, // what "my-tool login" is answered goes to the store
	}
	err := command(ctx, &http.Client{Transport: transport, Timeout: time.Minute})
	if errors.Is(err, walletauth.ErrNoSession) || errors.Is(err, walletauth.ErrSessionExpired) {
		err = errors.New("not logged in: run my-tool login")
	}
	return errors.Join(err, shutdown(ctx, transport))
}

// shutdown stores what could not be stored so far, after a Ctrl-C too.
func shutdown(ctx context.Context, transport *walletauth.Transport) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return transport.Shutdown(ctx)
}

func TestCommandLineTool(t *testing.T) {
	home := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "AppData"} {
		t.Setenv(name, home)
	}
	if err := runTool(t.Context(), listWallets); fmt.Sprint(err) != "not logged in: run my-tool login" {
		t.Errorf("before the login: %v", err)
	}
	for _, command := range []func(context.Context, *http.Client) error{loginAnonymously, listWallets, logout} {
		if err := runTool(t.Context(), command); err != nil {
			t.Error(err)
		}
	}
	if err := runTool(t.Context(), listWallets); err == nil {
		t.Error("no error after the logout")
	}
}

// newDesktopStore seals the sessions in its files by a key in the user's
// keyring.
func newDesktopStore(dir string) (walletauth.TokenStore, error) {
	codec, err := keyring.Codec("my-app")
	if err != nil {
		return nil, err // there is no keyring, or it is locked: the error says what to do
	}
	return &filestore.Store{Dir: dir, Codec: codec}, nil
}

// keepFresh runs beside a program that waits for its user, and returns when
// the user has to log in.
func keepFresh(ctx context.Context, transport *walletauth.Transport, askUser func()) {
	err := transport.KeepAlive(ctx)
	if errors.Is(err, walletauth.ErrNoSession) || errors.Is(err, walletauth.ErrSessionExpired) {
		askUser()
	}
}

func TestDesktopProgram(t *testing.T) {
	oskeyring.MockInit()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	store, err := newDesktopStore(t.TempDir() + "/sessions")
	if err != nil {
		t.Fatal(err)
	}
	transport := &walletauth.Transport{Store: store}
	asked := false
	keepFresh(t.Context(), transport, func() { asked = true })
	if !asked {
		t.Error("the user was not asked to log in")
	}
	if err := walletauth.Save(t.Context(), store, "", walletKit.Login("desktop")); err != nil {
		t.Fatal(err)
	}
	if err := listWallets(t.Context(), &http.Client{Transport: transport}); err != nil {
		t.Error(err)
	}
}
