package main

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// These tests see to it that each scenario runs and counts right. How fast
// anything is they leave alone.

func TestMain(m *testing.M) {
	if place := os.Getenv(workerEnv); place != "" {
		exit(work(place, os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

func TestOverheadIsMeasuredForAll(t *testing.T) {
	loads := []load{{5, 1, 1}, {5, 3, 1}, {5, 1, 8}, {6, 1, 1}}
	results, err := measureOverhead(loads, 2, 640)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(results), len(everyone)*len(loads); got != want {
		t.Fatalf("%d results, want %d", got, want)
	}
	for _, r := range results {
		if len(r.Rounds) != 2 || r.Allocations < 2.5 { // fewer than the floor's three cannot be
			t.Errorf("%s under %+v: %d rounds, %v allocations", r.Peer, r.load, len(r.Rounds), r.Allocations)
		}
	}
}

// recorder notes the fields that arrive at a base transport.
type recorder struct {
	base http.RoundTripper
	last http.Header
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.last = req.Header
	return r.base.RoundTrip(req)
}

func TestAllSendTheSameFields(t *testing.T) {
	for _, p := range everyone {
		a := newAPI(0, time.Hour)
		r := &recorder{base: idle{a}}
		a.base = r
		c := openOne(t, p, a)
		asked := a.requests.Load()
		req := bringAnswer(p.request(c, a, 5))
		for range 2 { // as measureOverhead does, again and again
			r.last = nil
			if status, err := c.send(req); status != http.StatusOK {
				t.Fatalf("%s: %d, %v", p.name, status, err)
			}
			for _, name := range []string{"Authorization", projectHeader, sourceHeader, "Field-0", "Field-4"} {
				if r.last.Get(name) == "" {
					t.Errorf("%s sends no %s", p.name, name)
				}
			}
		}
		if got := a.requests.Load(); got != asked {
			t.Errorf("%s: the api was asked %d times, and the answer was there", p.name, got-asked)
		}
	}
}

func openOne(t *testing.T, p *peer, a *api) client {
	t.Helper()
	c, err := p.one(a)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoopbackIsMeasuredForAll(t *testing.T) {
	t.Parallel()
	results, err := measureLoopback(2)
	if err != nil || len(results) != len(everyone)+1 {
		t.Fatalf("%d results, %v", len(results), err)
	}
}

func TestAnExpiryIsOneRefresh(t *testing.T) {
	t.Parallel()
	results, err := measureExpiry(1, 50, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Refreshes != 1 || r.Served != 50 || r.LastMS < 20 {
			t.Errorf("%s: %d refreshes, %d of 50 served, the last after %v ms", r.Peer, r.Refreshes, r.Served, r.LastMS)
		}
	}
}

// inBubble runs f where waiting takes no time, so that what it counts does not
// depend on the machine. Peers that hold a mutex while they refresh cannot be
// there: for them time would stand still.
func inBubble(t *testing.T, p *peer, f func(t *testing.T)) {
	t.Run(p.name, func(t *testing.T) { synctest.Test(t, f) })
}

func TestTheEarlyWindowIsCrossed(t *testing.T) {
	c := crossing{requests: 40, refresh: 100 * time.Millisecond, lead: 31 * time.Second}
	for p, waited := range map[*peer]int{ours: 0, google: 0, azure: 1} {
		inBubble(t, p, func(t *testing.T) {
			results, err := measureEarly(c, []*peer{p})
			if err != nil {
				t.Fatal(err)
			}
			r := results[0]
			if r.Requests != 40 || len(r.Samples) != 40 || r.Refreshes != 1 || r.Failed != 0 || r.Waited != waited {
				t.Errorf("%d requests, %d samples, %d refreshes, %d failed, %d waited", r.Requests, len(r.Samples), r.Refreshes, r.Failed, r.Waited)
			}
			if before, after := r.Samples[9].AtMS, r.Samples[10].AtMS; before > 0 || after <= 0 {
				t.Errorf("the refresh does not begin after a quarter of the requests: at %v and %v ms", before, after)
			}
		})
	}
}

func TestTheEarlyWindowIsCrossedByThoseThatWait(t *testing.T) {
	t.Parallel()
	c := crossing{requests: 40, refresh: 100 * time.Millisecond, lead: 300 * time.Millisecond}
	results, err := measureEarly(c, []*peer{xoauth2, awsCache, github, kubernetes})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if len(r.Samples) != 40 || r.Refreshes != 1 || r.Waited == 0 {
			t.Errorf("%s: %d samples, %d refreshes, %d waited", r.Peer, len(r.Samples), r.Refreshes, r.Waited)
		}
	}
}

func TestPeersThatCannotRefreshSoSoonAreLeftOut(t *testing.T) {
	for lead, want := range map[time.Duration]bool{29 * time.Second: false, 31 * time.Second: true} {
		if got := slices.Contains(crossing{lead: lead}.peers(), azure); got != want {
			t.Errorf("azcore %s after its first fetch: %t, want %t", lead, got, want)
		}
	}
}

func TestAnOutageIsCounted(t *testing.T) {
	for _, p := range refreshing {
		inBubble(t, p, func(t *testing.T) {
			r, err := outageOf(p, 10*time.Second, 20)
			if err != nil {
				t.Fatal(err)
			}
			all := r.Valid.Requests
			if all < 190 || r.Expired.Requests != all || r.Back.Requests < all {
				t.Errorf("not 20 requests a second for ten seconds each: %+v", r)
			}
			switch p {
			case ours:
				if r.Valid.Failed != 0 || r.Valid.Calls == 0 || r.Expired.Failed != all || r.Expired.Calls == 0 ||
					r.Valid.Calls+r.Expired.Calls > 20 || r.BackMS <= 0 || r.BackMS > 5000 {
					t.Errorf("%+v", r)
				}
				return // it calls seldom, and so it does not know at once that the endpoint is back
			case xoauth2, github:
				if r.Valid.Failed < all-1 || r.Valid.Calls != r.Valid.Failed {
					t.Errorf("%+v", r)
				}
			default:
				if r.Valid.Failed != 0 || r.Valid.Calls > 1 {
					t.Errorf("%+v", r)
				}
			}
			if r.Expired.Failed != all || r.Expired.Calls != all || r.Back.Failed != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestACrowdIsCounted(t *testing.T) {
	for p, calls := range map[*peer][2]int{ours: {10, 100}, xoauth2: {990, 1010}} { // at least, at most
		inBubble(t, p, func(t *testing.T) {
			c, err := crowdOf(p, 100, time.Second, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			sum := 0
			for _, n := range c.PerSecond[:10] {
				sum += n
			}
			if c.Calls < calls[0] || c.Calls > calls[1] || sum < c.Calls-1 || sum > c.Calls+1 { // the last may be on the edge
				t.Errorf("%d calls, want %v; second by second %d", c.Calls, calls, sum)
			}
			if c.Unserved > 0 || c.LongestMS == 0 || c.ServedMS <= 0 {
				t.Errorf("%+v", c)
			}
		})
	}
}

func TestRefusedRequestsAreMendedOrReturned(t *testing.T) {
	t.Parallel()
	results, err := measureRefused(1, 20, 10*time.Millisecond, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		switch r.Peer {
		case ours.name:
			if r.Mended != 20 || r.Replays != 20 || r.Refreshes != 1 {
				t.Errorf("%+v", r)
			}
		case azure.name, kubernetes.name:
			if r.Mended != 0 || r.Replays != 0 || r.Retried == 0 || r.Refreshes < 1 {
				t.Errorf("%+v", r)
			}
		default:
			if r.Mended != 0 || r.Replays != 0 || r.Retried != 0 || r.Refreshes != 0 {
				t.Errorf("%+v", r)
			}
		}
	}
}

// Nothing else runs meanwhile: the heap is everybody's.
func TestMemoryIsMeasured(t *testing.T) {
	results, err := measureMemory([]int{1, 2000})
	if err != nil || len(results) != 2 || results[1].Bytes <= 0 || results[1].LoadNS <= 0 {
		t.Fatalf("%+v, %v", results, err)
	}
}

func TestEachKeyIsRefreshedOnce(t *testing.T) {
	results, err := measureKeys(1, []int{1, 100, atOnce + 100}) // the last do not all run at once
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Refreshes != r.Keys || r.PerSecond <= 0 || r.Goroutines < 1 {
			t.Errorf("%+v", r)
		}
	}
}

func TestProcessesRefreshOnce(t *testing.T) {
	t.Parallel()
	places, stop, err := startKinds()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if _, err := measureRates(places, 1, 10); err != nil {
		t.Error(err)
	}
	results, err := measureShared(places, 1, []int{3}, 20*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Refreshes != 1 || r.Reuses != 0 || r.LastMS < 20 {
			t.Errorf("%+v", r)
		}
	}
}

func TestDocumentsAreFilledBetweenTheirMarkers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	before := "# Title\n<!-- bench: keys -->\nold\n<!-- end -->\nprose\n<!-- bench: other -->\nkept\n<!-- end -->\n"
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fill(path, []named{{"keys", table{Columns: []string{"a"}, Rows: [][]string{{"1"}}}}}); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(before, "old\n", "\n| a |\n| :--- |\n| 1 |\n\n", 1)
	if string(after) != want {
		t.Errorf("got %q, want %q", after, want)
	}
}

func TestPicturesAreDrawn(t *testing.T) {
	r := &results{
		Overhead: []overhead{{Peer: ours.name, load: loads[0], Nanoseconds: 1}},
		Early:    []early{{Peer: ours.name, Samples: []sample{{1, 2, true}, {2, 3, true}}}},
		Memory:   []memory{{Sessions: 1, Bytes: 2, LoadNS: 3}, {Sessions: 10, Bytes: 2, LoadNS: 3}},
		Keys:     []keys{{Keys: 1, PerSecond: 2}, {Keys: 10, PerSecond: 3}},
		Shared:   []shared{{Store: "files", Processes: 1, LastMS: 2}, {Store: "files", Processes: 2, LastMS: 3}},
	}
	dir := t.TempDir()
	if err := r.draw(dir); err != nil {
		t.Fatal(err)
	}
	drawn, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || len(drawn) == 0 {
		t.Fatalf("%v, %v", drawn, err)
	}
	for _, path := range drawn {
		svg, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(svg), "</svg>") {
			t.Errorf("%s is no picture: %v", path, err)
		}
	}
}

func TestNumbersKeepWhatMatters(t *testing.T) {
	for value, want := range map[float64]string{0: "0", 0.5: "0.50", 1: "1", 12.34: "12.3", 123.4: "123", 1234567: "1,234,567", -1234: "-1,234"} {
		if got := number(value); got != want {
			t.Errorf("number(%v) = %q, want %q", value, got, want)
		}
	}
}
