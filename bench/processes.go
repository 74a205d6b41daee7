package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// shared is processes that share a session and meet its expiry at the same
// moment.
type shared struct {
	Store     string    `json:"store"`
	Processes int       `json:"processes"`
	Refreshes int       `json:"refreshes"` // the most of any round
	Reuses    int       `json:"reuses"`    // used refresh tokens sent again, in all rounds
	LastMS    float64   `json:"last_ms"`   // until the last has the new token, median
	BeyondMS  float64   `json:"beyond_ms"` // the refresh itself
	Rounds    []float64 `json:"last_ms_by_round"`
}

// workerEnv makes this program one of the processes: it names the store, and
// the address of the API follows on the first line of standard input.
const workerEnv = "WALLETAUTH_BENCH_STORE"

// work is one of the processes. It is ready once it has connected. A line has it wait until it sees that the session
// has expired, and say so; the next names a time, at which it asks for a session,
// and it answers with the time at which it had one.
func work(place string, in io.Reader, out io.Writer) error {
	store, err := openPlace(place)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	lines.Scan()
	url := lines.Text()
	rt := &walletauth.Transport{Store: store, BaseURL: url}
	if _, err := rt.Session(context.Background()); err != nil { // which connects
		return err
	}
	fmt.Fprintln(out, "ready")
	for lines.Scan() {
		if err := awaitExpiry(store); err != nil {
			return err
		}
		fmt.Fprintln(out, "expired")
		lines.Scan()
		at, err := strconv.ParseInt(lines.Text(), 10, 64)
		if err != nil {
			return err
		}
		time.Sleep(time.Until(time.Unix(0, at)))
		if _, err := rt.Session(context.Background()); err != nil {
			return err
		}
		fmt.Fprintln(out, time.Now().UnixNano())
	}
	return rt.Shutdown(context.Background())
}

func awaitExpiry(store walletauth.TokenStore) error {
	for ; ; time.Sleep(10 * time.Millisecond) {
		s, err := store.Load(context.Background(), "")
		if err != nil || time.Now().After(s.AccessTokenExpiresAt) {
			return err
		}
	}
}

// worker is one of the processes, seen from here.
type worker struct {
	process *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
}

func startWorker(place, url string) (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worker{process: exec.Command(self)}
	w.process.Env = append(os.Environ(), workerEnv+"="+place, "GOMAXPROCS=1")
	w.process.Stderr = os.Stderr
	if w.in, err = w.process.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewScanner(out)
	if err := w.process.Start(); err != nil {
		return nil, err
	}
	_, err = fmt.Fprintln(w.in, url)
	return w, err
}

func (w *worker) line() (string, error) {
	if !w.out.Scan() {
		return "", errors.New("a process ended early")
	}
	return w.out.Text(), nil
}

// measureShared has processes in all numbers share a session in all stores.
func measureShared(places []place, rounds int, numbers []int, refresh time.Duration) ([]shared, error) {
	var results []shared
	for _, p := range places {
		for _, n := range numbers {
			s, err := sharedOf(p, n, rounds, refresh)
			if err != nil {
				return results, fmt.Errorf("%d processes over %s: %w", n, p.name, err)
			}
			results = append(results, s)
		}
	}
	return results, nil
}

func sharedOf(p place, n, rounds int, refresh time.Duration) (s shared, err error) {
	api := walletauthtest.NewServer(walletauthtest.Config{AccessTokenTTL: time.Hour})
	defer api.Close()
	api.FailRefresh(-1, walletauthtest.Fault{Delay: refresh})
	store, err := p.open(p.at)
	if err != nil {
		return s, err
	}
	f := fleet{api: api, store: store}
	defer f.stop()
	if err := walletauth.Save(context.Background(), store, "", api.Login("user")); err != nil {
		return s, err
	}
	for range n {
		w, err := startWorker(p.name+" "+p.at, api.URL)
		if err != nil {
			return s, err
		}
		f.workers = append(f.workers, w)
		if _, err := w.line(); err != nil { // one after the other: a rush of connections is another story
			return s, err
		}
	}
	return f.meet(shared{Store: p.name, Processes: n}, rounds, refresh)
}

// fleet is the processes that share one session.
type fleet struct {
	api     *walletauthtest.Server
	store   walletauth.TokenStore
	workers []*worker
}

func (f *fleet) stop() {
	for _, w := range f.workers {
		_ = w.in.Close() // which it takes as the end
	}
	for _, w := range f.workers {
		_ = w.process.Wait()
	}
	if c, ok := f.store.(io.Closer); ok {
		_ = c.Close() // of a server that goes too
	}
}

func (f *fleet) meet(s shared, rounds int, refresh time.Duration) (shared, error) {
	for range rounds + 1 {
		before := f.api.Stats().Refreshes
		took, err := f.expire()
		if err != nil {
			return s, err
		}
		s.Rounds = append(s.Rounds, milliseconds(took))
		s.Refreshes = max(s.Refreshes, f.api.Stats().Refreshes-before)
	}
	s.Rounds = s.Rounds[1:] // the first made the connections
	s.Reuses = f.api.Stats().Reuses
	s.LastMS = median(s.Rounds)
	s.BeyondMS = s.LastMS - milliseconds(refresh)
	return s, nil
}

// expire lets the session expire for all at once, and returns how long it took
// until the last had the next one.
func (f *fleet) expire() (time.Duration, error) {
	s := *f.api.Sessions("user")[0]
	s.AccessTokenExpiresAt = time.Now().Add(-time.Minute)
	if err := walletauth.Save(context.Background(), f.store, "", &s); err != nil {
		return 0, err
	}
	if err := f.write("expired?"); err != nil {
		return 0, err
	}
	if _, err := f.read(); err != nil {
		return 0, err
	}
	start := time.Now().Add(100 * time.Millisecond) // so that all begin at once
	if err := f.write(start.UnixNano()); err != nil {
		return 0, err
	}
	answers, err := f.read()
	last := start
	for _, answer := range answers {
		at, parseErr := strconv.ParseInt(answer, 10, 64)
		err = firstOf(err, parseErr)
		if t := time.Unix(0, at); t.After(last) {
			last = t
		}
	}
	return last.Sub(start), err
}

// write writes a line to all processes.
func (f *fleet) write(line any) error {
	for _, w := range f.workers {
		if _, err := fmt.Fprintln(w.in, line); err != nil {
			return err
		}
	}
	return nil
}

// read reads a line of each process.
func (f *fleet) read() (lines []string, err error) {
	for _, w := range f.workers {
		line, err := w.line()
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func sharedTable(results []shared) table {
	t := table{Columns: []string{"store", "processes", "refreshes per expiry", "used tokens sent again", "until the last has the new token, ms", "beyond the refresh, ms"}}
	for _, r := range results {
		t.add(r.Store, number(r.Processes), number(r.Refreshes), number(r.Reuses), number(r.LastMS), number(r.BeyondMS))
	}
	return t
}

// rate is how many keys a store can refresh in a second, from one process and
// with a refresher that costs nothing.
type rate struct {
	Store     string  `json:"store"`
	Keys      int     `json:"keys"` // at once
	PerSecond float64 `json:"refreshes_per_second"`
}

func measureRates(places []place, rounds, n int) ([]rate, error) {
	results := []rate{}
	for _, p := range places {
		r := rate{Store: p.name, Keys: n}
		var rates []float64
		for range rounds {
			store, err := p.open(p.at)
			if err != nil {
				return nil, err
			}
			persecond, err := rateOf(store, n)
			if c, ok := store.(io.Closer); ok {
				err = errors.Join(err, c.Close())
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			rates = append(rates, persecond)
		}
		r.PerSecond = median(rates)
		results = append(results, r)
	}
	return results, nil
}

func rateOf(store walletauth.TokenStore, n int) (float64, error) {
	a := newAPI(0, -time.Minute)
	rt := &walletauth.Transport{Store: store, Base: a, Refresher: refresher{a}}
	ctxs := make([]context.Context, n)
	for i := range ctxs {
		key := fmt.Sprint("user-", i)
		ctxs[i] = walletauth.WithKey(context.Background(), key)
		if err := walletauth.Save(ctxs[i], store, key, session(key, a.mint())); err != nil {
			return 0, err
		}
	}
	a.life.Store(int64(time.Hour))
	errs := make(chan error, n)
	i := 0
	took := rush(n, func() func() {
		c := client{rt, ctxs[i]}
		i++
		return func() { errs <- c.get(a.url) }
	})
	var err error
	for range n {
		err = firstOf(err, <-errs)
	}
	return float64(n) / took.Seconds(), err
}

// get sends a request that is to succeed.
func (c client) get(url string) error {
	status, err := c.send(newRequest(c.ctx, url, 5))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("answered %d", status)
	}
	return err
}

func rateTable(results []rate) table {
	t := table{Columns: []string{"store", "keys at once", "refreshes per second"}}
	for _, r := range results {
		t.add(r.Store, number(r.Keys), number(r.PerSecond))
	}
	return t
}
