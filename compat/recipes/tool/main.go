// Command my-tool is the recipe for a command-line tool. The tests run it, and
// docs/recipes.md prints it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // the first Ctrl-C ends the command, a second one the program
	t := newTool()
	err := t.run(ctx, os.Args[1:])
	lost := t.shutdown() // after a Ctrl-C too
	if tell(os.Stderr, err, lost) {
		os.Exit(1)
	}
}

// appName names the folder of the sessions: no other program shares them.
const appName = "my-tool/sessions"

// tool is one run of the program.
type tool struct {
	transport *walletauth.Transport
	client    *http.Client
	api       string
}

func newTool() *tool {
	api := walletauth.Testnet
	switch env := os.Getenv("MY_TOOL_ENV"); env {
	case "", "testnet":
	case "mainnet":
		api = walletauth.Mainnet
	default:
		api = env // the address of a stand-in
	}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.DialContext = (&net.Dialer{Timeout: 5 * time.Second}).DialContext // instead of 30, where packets vanish
	transport := &walletauth.Transport{
		Store:     &filestore.Store{App: appName},            // in the user's configuration folder, mode 0600
		Key:       func(*http.Request) string { return api }, // so that no environment sees another's session
		ProjectID: "my-project",
		BaseURL:   api,
		Base:      base,
	}
	return &tool{transport, &http.Client{Transport: transport, Timeout: time.Minute}, api}
}

var commands = map[string]func(*tool, context.Context) error{
	"login": (*tool).login, "logout": (*tool).logout, "status": (*tool).status, "wallets": (*tool).wallets,
}

func (t *tool) run(ctx context.Context, args []string) error {
	if len(args) != 1 || commands[args[0]] == nil {
		return message("usage: my-tool login | logout | status | wallets")
	}
	return commands[args[0]](t, ctx)
}

// login saves the session itself. With CaptureLogin a session that the store does
// not take would be used from memory, and be gone with this process.
func (t *tool) login(ctx context.Context) error {
	resp, err := t.post(ctx, "/users/login-anonymously")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var session walletauth.Session
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&session); err != nil {
		return err
	}
	if err := walletauth.Save(ctx, t.transport.Store, t.api, &session); err != nil {
		return &walletauth.StoreError{Op: "update", Err: err} // not logged in
	}
	fmt.Println("Logged in as", session.UserID)
	return nil
}

// logout logs out here, whatever happens. Shutdown stores what the store did not
// take at first, so only then is it known whether it failed.
func (t *tool) logout(ctx context.Context) error {
	err := t.transport.Logout(ctx)
	if lost := t.shutdown(); lost != nil {
		return lost
	}
	fmt.Println("Logged out")
	var store *walletauth.StoreError
	if err != nil && !errors.As(err, &store) {
		fmt.Println("(WalletKit could not be told. It ends the session by itself.)")
	}
	return nil
}

// status says what is known without asking WalletKit.
func (t *tool) status(ctx context.Context) error {
	status, err := t.transport.Status(ctx)
	if err != nil {
		return err
	}
	if status.Session == nil {
		return walletauth.ErrNoSession
	}
	fmt.Printf("Logged in to %s as %s, until %s at the latest\n",
		t.api, status.Session.UserID, status.Session.RefreshTokenExpiresAt.Local().Format(time.DateTime))
	return nil
}

func (t *tool) wallets(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.api+"/wallets", nil)
	if err != nil {
		return err
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return message("WalletKit answered " + resp.Status)
	}
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

func (t *tool) post(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.api+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := t.client.Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.Join(message("WalletKit answered "+resp.Status), resp.Body.Close())
	}
	return resp, err
}

// shutdown waits for a refresh in progress, and stores what could not be stored so
// far.
func (t *tool) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return t.transport.Shutdown(ctx)
}

// tell prints a sentence for each error, and none twice. It reports whether there
// was any.
func tell(w io.Writer, errs ...error) bool {
	var told []string
	for _, err := range errs {
		if err == nil {
			continue
		}
		if text := explain(err); !slices.Contains(told, text) {
			told = append(told, text)
			fmt.Fprintln(w, "my-tool: "+text)
		}
	}
	return told != nil
}

// message is an error that is in the user's words already.
type message string

func (m message) Error() string { return string(m) }

// explain is an error in the user's words: what it means, and what to do.
func explain(err error) string {
	var said message
	var store *walletauth.StoreError
	switch {
	case errors.As(err, &said):
		return string(said)
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, walletauth.ErrNoSession):
		return "not logged in: run my-tool login"
	case errors.Is(err, walletauth.ErrSessionExpired):
		return "your login has ended: run my-tool login"
	case errors.Is(err, walletauth.ErrUnreadable):
		return "your saved login cannot be read: run my-tool login"
	case errors.As(err, &store):
		return "your login cannot be saved or read in " + folder() + reason(store)
	default:
		return "WalletKit cannot be reached: check your connection and try again"
	}
}

// folder is where the sessions are.
func folder() string {
	dir, _ := os.UserConfigDir() // an error of the store says so too
	return filepath.Join(dir, appName)
}

// reason is what the system said, "no space left on device" for example. The rest
// of the store's error is for programmers.
func reason(err error) string {
	var system syscall.Errno
	if errors.As(err, &system) {
		return ": " + system.Error()
	}
	return ""
}
