package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
	t.Parallel()
	loads := []load{{5, 1, 1}, {5, 3, 1}, {5, 1, 8}, {6, 1, 1}}
	results, err := measureOverhead(loads, 1, 640)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(results), len(everyone)*len(loads); got != want {
		t.Fatalf("%d results, want %d", got, want)
	}
	for _, r := range results {
		if r.Nanoseconds <= 0 || r.Allocations < 1 {
			t.Errorf("%s under %+v: %v ns, %v allocations", r.Peer, r.load, r.Nanoseconds, r.Allocations)
		}
	}
}

// recorder notes the fields that arrive at an api.
type recorder struct {
	*api
	last http.Header
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.last = req.Header
	return r.api.RoundTrip(req)
}

func TestAllSendTheSameFields(t *testing.T) {
	for _, p := range everyone {
		a := newAPI(0, time.Hour)
		r := &recorder{api: a}
		a.base = r
		c := openOne(t, p, a)
		if status, err := c.send(p.request(c, a, 5)); status != http.StatusOK {
			t.Fatalf("%s: %d, %v", p.name, status, err)
		}
		for _, name := range []string{"Authorization", projectHeader, sourceHeader, "Field-0", "Field-4"} {
			if r.last.Get(name) == "" {
				t.Errorf("%s sends no %s", p.name, name)
			}
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

func TestTheEarlyWindowIsCrossed(t *testing.T) {
	t.Parallel()
	results, err := measureEarly(crossing{requests: 40, refresh: 100 * time.Millisecond, lead: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		want := 1
		if r.Peer == azure.name { // its first fetch is not 30 s ago
			want = 0
		}
		if r.Refreshes != want || r.Failed > 0 || len(r.Samples) != 40 {
			t.Errorf("%s: %d refreshes, %d failed, %d samples", r.Peer, r.Refreshes, r.Failed, len(r.Samples))
		}
		if waits := r.Peer == xoauth2.name || r.Peer == awsCache.name; waits && r.Waited == 0 {
			t.Errorf("%s: nobody waited", r.Peer)
		}
	}
}

func TestAnOutageIsCounted(t *testing.T) {
	t.Parallel()
	results, err := measureOutage(time.Second, 20)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results { // on a busy machine a request may slip into the next phase
		if r.Expired.Failed == 0 || r.Expired.Calls == 0 {
			t.Errorf("%s: %+v", r.Peer, r)
		}
		if r.Peer != ours.name && r.Back.Failed == r.Back.Requests { // ours may be waiting to try again, longer than this lasts
			t.Errorf("%s: %+v", r.Peer, r)
		}
		if r.Peer == ours.name && (r.Valid.Failed > r.Valid.Requests/4 || r.Expired.Calls > r.Expired.Requests/2) {
			t.Errorf("%s: %+v", r.Peer, r)
		}
		if r.Peer == xoauth2.name && (r.Valid.Failed == 0 || r.Valid.Calls == 0) {
			t.Errorf("%s: %+v", r.Peer, r)
		}
	}
}

func TestACrowdIsCounted(t *testing.T) {
	t.Parallel()
	var calls []int
	for _, p := range []*peer{ours, xoauth2} {
		c, err := crowdOf(p, 100, time.Second, 3*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if c.Unserved > 0 || c.Calls == 0 || most(c.PerSecond) == 0 || c.LongestMS == 0 || c.ServedMS <= 0 {
			t.Errorf("%+v", c)
		}
		calls = append(calls, c.Calls)
	}
	if calls[0] >= calls[1] {
		t.Errorf("%d calls, and %d of x/oauth2", calls[0], calls[1])
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

func TestMemoryIsMeasured(t *testing.T) {
	t.Parallel()
	results, err := measureMemory([]int{1, 2000})
	if err != nil || len(results) != 2 || results[1].Bytes <= 0 || results[1].LoadNS <= 0 {
		t.Fatalf("%+v, %v", results, err)
	}
}

func TestEachKeyIsRefreshedOnce(t *testing.T) {
	results, err := measureKeys(1, []int{1, 100})
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
