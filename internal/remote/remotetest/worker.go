//go:build linux

package remotetest

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

const orderEnv = "WALLETAUTH_TEST_ORDER"

// order is what another process is to do with a store.
type order struct {
	Do    string // a name in jobs
	Place string
	Lease time.Duration
	Key   string
	URL   string // of the API
	Every time.Duration

	Next   *walletauth.Session // what a job stores
	Insist bool                // and does again if it is called again
}

// Open opens the store at a place, in the form that the tests of the store
// use. Lease 0 is the default.
type Open func(place string, lease time.Duration) (walletauth.TokenStore, error)

// store opens a store for the time of a test.
func (open Open) store(t testing.TB, place string, lease time.Duration) walletauth.TokenStore {
	t.Helper()
	store, err := open(place, lease)
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := store.(io.Closer); ok {
		t.Cleanup(func() { _ = c.Close() })
	}
	return store
}

// WaitTogether has more tests run at once in short runs than there are processors,
// unless the command line says how many: there they wait more than they work. Call it
// before Main.
func WaitTogether() {
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if testing.Short() && !chosen {
		_ = flag.Set("test.parallel", "8") // it is defined in every test
	}
}

// Main runs the tests, or does the job of a process that a test started. Call
// it from TestMain.
func Main(m *testing.M, open Open) {
	text, ok := os.LookupEnv(orderEnv)
	if !ok {
		code := m.Run()
		removeFolders()
		os.Exit(code)
	}
	var o order
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = work(o, open)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func work(o order, open Open) error {
	store, err := open(o.Place, o.Lease)
	if err != nil {
		return err
	}
	return jobs[o.Do](store, o)
}

var jobs = map[string]func(walletauth.TokenStore, order) error{
	"request": request,
	"watch":   watch,
	"hold":    hold,
}

// until returns a context that ends with standard input, so that no process
// outlives the test that started it.
func until(in io.Reader) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, in) // its end is all that matters
	}()
	return ctx
}

func say(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }

// tally is what a process that sends requests reports.
type tally struct {
	Requests, Failures int
	Failure            string // the first
	Slowest            time.Duration
}

// request sends requests through a Transport over the store until standard
// input ends.
func request(store walletauth.TokenStore, o order) error {
	transport := &walletauth.Transport{Store: store, BaseURL: o.URL}
	client := &http.Client{Transport: transport}
	ctx := until(os.Stdin)
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	if err := say("ready"); err != nil {
		return err
	}
	var t tally
	for ctx.Err() == nil {
		began := time.Now()
		err := get(client, o)
		if t.Requests++; err != nil {
			if t.Failures++; t.Failures == 1 {
				t.Failure = err.Error()
			}
		}
		t.Slowest = max(t.Slowest, time.Since(began))
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	// Who ended in the middle of a refresh would leave its lease behind, and the
	// others' last requests would wait for the end of that.
	if err := transport.Shutdown(context.Background()); err != nil {
		return err
	}
	return say(t)
}

func get(client *http.Client, o order) error {
	req, err := http.NewRequestWithContext(walletauth.WithKey(context.Background(), o.Key), http.MethodGet, o.URL+"/wallets", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// watch loads until standard input ends. Of each session it says how long after
// its making it saw it: the id of a session is the time it was made.
func watch(store walletauth.TokenStore, o order) error {
	ctx := until(os.Stdin)
	tick := time.NewTicker(o.Every)
	defer tick.Stop()
	last, sights := "", 0
	for ctx.Err() == nil {
		s, err := store.Load(context.Background(), o.Key)
		if err != nil {
			return err
		}
		if s.ID != last {
			if err := sayDelay(s, last == ""); err != nil {
				return err
			}
			if last != "" {
				sights++
			}
			last = s.ID
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return say(sights)
}

func sayDelay(s *walletauth.Session, isFirst bool) error {
	if isFirst {
		return say("ready")
	}
	made, err := time.Parse(time.RFC3339Nano, s.ID)
	if err != nil {
		return err
	}
	return say(time.Since(made))
}

// held is what a process that held a lease reports.
type held struct {
	CtxEnded bool   // before fn began anything
	Calls    int    // of fn
	Err      string // of Update
}

// hold stays in an Update until standard input ends, then looks at its ctx and
// stores a session all the same. Called again, it leaves what is there.
func hold(store walletauth.TokenStore, o order) error {
	var h held
	err := store.Update(context.Background(), o.Key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		if h.Calls++; h.Calls > 1 && !o.Insist {
			return current, nil
		}
		if h.Calls > 1 {
			return o.Next, nil
		}
		if err := say("ready"); err != nil {
			return nil, err
		}
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return nil, err
		}
		h.CtxEnded = ctx.Err() != nil
		return o.Next, nil
	})
	if err != nil {
		h.Err = err.Error()
	}
	return say(h)
}

// process is another process at work.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.Closer
	said  *bufio.Reader
}

// start starts a process that ends with the test at the latest.
func start(t testing.TB, o order) *process {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")}
	p.cmd.Env = append(os.Environ(), orderEnv+"="+string(text), "GORACE=atexit_sleep_ms=0") // 20 times a second is long
	p.cmd.Stderr = os.Stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin, p.said = stdin, bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// hear reads the next thing the process says.
func (p *process) hear(v any) {
	p.t.Helper()
	line, err := p.said.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, v)
	}
	if err != nil {
		p.t.Fatalf("a process was to say something: %v %q", err, line)
	}
}

func (p *process) ready() {
	p.t.Helper()
	var word string
	p.hear(&word)
}

// end tells the process to come to its end.
func (p *process) end() {
	_ = p.stdin.Close() // a process that has ended says nothing, which is found by finish
}

// finish ends the process and reads what it reports.
func (p *process) finish(report any) {
	p.t.Helper()
	p.end()
	p.hear(report)
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("a process ended with %v", err)
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Session makes a complete session that name tells from others. It is valid
// for an hour.
func Session(name string) *walletauth.Session {
	now := time.Now().Truncate(time.Millisecond)
	return &walletauth.Session{
		ID: name, CreatedAt: now, ProjectID: "project", UserID: "user",
		AccessToken: "access-" + name, AccessTokenExpiresAt: now.Add(time.Hour),
		RefreshToken: "refresh-" + name, RefreshTokenExpiresAt: now.Add(30 * 24 * time.Hour),
	}
}
