//go:build linux

package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
)

func TestScripts(t *testing.T) {
	t.Parallel()
	runScripts(t, "testdata/script")
}

func runScripts(t *testing.T, dir string) {
	testscript.RunT(recorder{T: t}, testscript.Params{
		Dir:           dir,
		Setup:         setup,
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   cmdExits,
			"standin": cmdStandin,
			"steer":   cmdSteer,
			"stats":   cmdStats,
			"expire":  cmdExpire,
			"at-once": cmdAtOnce,
			"mode":    cmdMode,
		},
		RequireExplicitExec: true,
	})
}

// setup gives a script a home of its own, without a keyring.
func setup(env *testscript.Env) error {
	for name, folder := range map[string]string{"HOME": "home", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache", "XDG_RUNTIME_DIR": "run"} {
		folder = filepath.Join(env.WorkDir, folder)
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
		env.Setenv(name, folder)
	}
	env.Setenv("KEY", filepath.Join(env.WorkDir, "sealing.key"))
	env.Defer(func() { searchScript(env) }) // before the folder is removed
	env.Setenv("DBUS_SESSION_BUS_ADDRESS", busAddress)
	return nil
}

// searchScript looks for secrets in what a script has left in files, and keeps its
// sealing keys, for which the log is searched. An error would let both pass for
// no reason.
func searchScript(env *testscript.Env) {
	keys, err := sealingKeys(env.WorkDir)
	if busAddress != "" && err == nil {
		var inKeyring []string
		inKeyring, err = keyringKey()
		keys = append(keys, inKeyring...)
	}
	if err != nil {
		env.T().Fatal(err)
	}
	knownKeys.add(keys)
	if found, err := searchFiles(env.WorkDir, keys); err != nil || len(found) > 0 {
		env.T().Fatal(found, err)
	}
}

// recorder is a testing.T for testscript. What a script logs is all that its
// commands said; it is searched for secrets.
type recorder struct {
	*testing.T
	log *logged // nil at the top
}

type logged struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (r recorder) Run(name string, run func(testscript.T)) {
	r.T.Run(name, func(t *testing.T) {
		log := &logged{}
		t.Cleanup(func() { checkOutput(t, log.text.String(), knownKeys.all()...) })
		run(recorder{T: t, log: log})
	})
}

func (r recorder) Log(args ...any) {
	if r.log != nil {
		r.log.mu.Lock()
		_, _ = fmt.Fprintln(&r.log.text, args...) // it is memory
		r.log.mu.Unlock()
	}
	r.T.Log(args...)
}

func (r recorder) Verbose() bool { return true } // a script that passes logs all the same

// knownKeys are the sealing keys of all scripts that have ended. To look for
// those of another script too does no harm.
var knownKeys keyList

type keyList struct {
	mu   sync.Mutex // guards keys
	keys []string
}

func (l *keyList) add(keys []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys = append(l.keys, keys...)
}

func (l *keyList) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.keys)
}

// cmdExits runs a command that ends with an exit code: exits 3 walletauth token.
func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	var exit *exec.ExitError
	err := ts.Exec(args[1], args[2:]...)
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	if got := strconv.Itoa(exit.ExitCode()); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// cmdStandin starts a stand-in, which ends with the script. API is its address
// then.
func cmdStandin(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command(binary, append([]string{"standin", "--listen", "127.0.0.1:0"}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() {
		ts.Check(cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); err != nil {
			ts.Fatalf("the stand-in ended with %v\n%s", err, said.String())
		}
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	ts.Check(err)
	ts.Setenv("API", strings.TrimSpace(address))
}

// cmdSteer sends a request that steers the stand-in: steer revoke '{...}'.
func cmdSteer(ts *testscript.TestScript, neg bool, args []string) {
	resp, err := http.Post(ts.Getenv("API")+"/standin/"+args[0], "application/json", strings.NewReader(args[1]))
	ts.Check(err)
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(resp.Body.Close())
	if refused := resp.StatusCode != http.StatusNoContent; refused != neg {
		ts.Fatalf("%s: %s %s", args[0], resp.Status, body)
	}
}

// cmdStats compares what the stand-in has counted: stats refreshes=1 reuses=0.
func cmdStats(ts *testscript.TestScript, neg bool, args []string) {
	resp, err := http.Get(ts.Getenv("API") + "/standin/stats")
	ts.Check(err)
	var stats map[string]any
	ts.Check(json.NewDecoder(resp.Body).Decode(&stats))
	ts.Check(resp.Body.Close())
	for _, want := range args {
		name, value, _ := strings.Cut(want, "=")
		if got := fmt.Sprint(stats[name]); got != value {
			ts.Fatalf("the stand-in counts %s=%s, want %s", name, got, value)
		}
	}
}

// cmdExpire makes the stored access token of a profile one that has expired a
// minute ago, without waiting for it: expire [PROFILE].
func cmdExpire(ts *testscript.TestScript, neg bool, args []string) {
	name := "default"
	if len(args) > 0 {
		name = args[0]
	}
	dir := filepath.Join(ts.Getenv("XDG_CONFIG_HOME"), "walletauth")
	ts.Check(expireSession(dir, name, ts.Getenv("API"), codecOf(ts)))
}

// expireSession makes the stored access token of a profile expired.
func expireSession(dir, profile, api string, codec walletauth.Codec) error {
	store := &filestore.Store{Dir: dir, Codec: codec}
	return store.Update(context.Background(), sessionKey(profile, api), func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		if s == nil {
			return nil, walletauth.ErrNoSession
		}
		expired := *s
		expired.AccessTokenExpiresAt = time.Now().Add(-time.Minute)
		return &expired, nil
	})
}

// moveSession makes the session of the default profile one of another API.
func moveSession(dir, from, to string) error {
	store := &filestore.Store{Dir: dir}
	s, err := store.Load(context.Background(), sessionKey("default", from))
	if err != nil {
		return err
	}
	return walletauth.Save(context.Background(), store, sessionKey("default", to), s)
}

func sessionKey(profile, api string) string {
	return strings.Join([]string{profile, api, "project"}, "\n")
}

// codecOf is the codec of a script that logs in with --key-file $KEY, or
// without sealing.
func codecOf(ts *testscript.TestScript) walletauth.Codec {
	keys, err := sealingKeys(ts.Getenv("WORK"))
	ts.Check(err)
	if len(keys) == 0 {
		return walletauth.JSONCodec{}
	}
	codec, err := walletauth.NewSealedCodec([]byte(keys[0]))
	ts.Check(err)
	return codec
}

// cmdAtOnce runs a command many times at once, all of which have to do well, and
// shows the different outputs: at-once 20 walletauth token.
func cmdAtOnce(ts *testscript.TestScript, neg bool, args []string) {
	var n int
	_, err := fmt.Sscan(args[0], &n)
	ts.Check(err)
	outputs := make([]string, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			cmd := exec.Command(args[1], args[2:]...)
			cmd.Env = envOf(ts)
			out, err := cmd.CombinedOutput()
			outputs[i] = string(out)
			if err != nil {
				outputs[i] += err.Error()
			}
		})
	}
	all.Wait()
	different := map[string]int{}
	for _, out := range outputs {
		different[out]++
	}
	for out, times := range different {
		ts.Logf("%d times: %s", times, out)
	}
	if len(different) != 1 {
		ts.Fatalf("%d commands at once said %d different things", n, len(different))
	}
}

func envOf(ts *testscript.TestScript) []string {
	env := os.Environ()
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// cmdMode compares a file's mode: mode 0600 FILE...
func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	for _, file := range args[1:] {
		info, err := os.Stat(ts.MkAbs(file))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", file, got, args[0])
		}
	}
}
