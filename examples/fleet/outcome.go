package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/walletauth/walletauth/walletauthtest"
)

// outcome is what is known when all replicas have ended. What concerns
// refreshes is the API's own count: a replica that was killed cannot tell all.
type outcome struct {
	rows      []row
	all       row
	took      time.Duration
	refreshes []int // of each user's session
	lost      int   // sessions that have ended
	seen      walletauthtest.Stats
}

// row is a replica.
type row struct {
	name  string
	lives int
	did   report
}

func (f *fleet) outcome() outcome {
	o := outcome{took: time.Since(f.began), seen: f.srv.Stats(), all: row{name: "all"}}
	for _, r := range f.replicas {
		did, lives := r.total()
		o.rows = append(o.rows, row{fmt.Sprint(r.number), lives, did})
		o.all.lives += lives
		o.all.did = o.all.did.plus(did)
	}
	for _, u := range f.users {
		o.refreshes = append(o.refreshes, f.srv.Refreshes(u.sessionID))
		if len(f.srv.Sessions(u.id)) == 0 {
			o.lost++
		}
	}
	return o
}

// atMost is how often a session can fall due in this time, if each refresh is
// made once and not by every replica.
func (o outcome) atMost() int { return int(o.took / due) }

func (o outcome) failure() error {
	var errs []error
	if n := o.all.did.Failed; n > 0 {
		errs = append(errs, fmt.Errorf("%d requests failed, the first with: %s", n, o.all.did.Trouble))
	}
	if n := o.seen.Reuses; n > 0 {
		errs = append(errs, fmt.Errorf("%d refresh tokens were sent twice", n))
	}
	if n := o.seen.Violations; n > o.seen.Reuses {
		errs = append(errs, fmt.Errorf("the API counts %d violations of its protocol", n))
	}
	if o.lost > 0 {
		errs = append(errs, fmt.Errorf("%d sessions were lost", o.lost))
	}
	if most := slices.Max(o.refreshes); most > o.atMost() {
		errs = append(errs, fmt.Errorf("a session was refreshed %d times, and fell due %d times at most", most, o.atMost()))
	}
	return errors.Join(errs...)
}

func (o outcome) String() string {
	var b strings.Builder
	fmt.Fprintln(&b, "replica  lives  requests  failures  refreshes  adopted")
	for _, r := range append(o.rows, o.all) {
		fmt.Fprintf(&b, "%-7s  %5d  %8d  %8d  %9d  %7d\n",
			r.name, r.lives, r.did.Requests, r.did.Failed, r.did.Refreshes, r.did.Adopted)
	}
	fmt.Fprint(&b, "\nrefreshes of each user's session, as the API counts them\n")
	for line := range slices.Chunk(o.cells(), 8) {
		fmt.Fprintln(&b, strings.Join(line, "  "))
	}
	fmt.Fprintln(&b)
	for _, fact := range o.facts() {
		fmt.Fprintf(&b, "%-26s  %s\n", fact[0], fact[1])
	}
	return b.String()
}

func (o outcome) cells() (cells []string) {
	for i, n := range o.refreshes {
		cells = append(cells, fmt.Sprintf("%3d:%3d", i+1, n))
	}
	return cells
}

func (o outcome) facts() [][2]string {
	often, seldom := o.atMost(), int(o.took/lifetime)
	return [][2]string{
		{"time", fmt.Sprintf("%.1fs, %.1f lifetimes of a token", o.took.Seconds(), o.took.Seconds()/lifetime.Seconds())},
		{"refreshes per user", between(slices.Min(o.refreshes), slices.Max(o.refreshes))},
		{"once per lifetime is", fmt.Sprintf("%s, a token being replaced after %s to %s", between(seldom, often), due, lifetime)},
		{"once per replica would be", between(3*seldom, 3*often)},
		{"refresh tokens sent twice", fmt.Sprint(o.seen.Reuses)},
		{"sessions lost", fmt.Sprint(o.lost)},
	}
}

func between(low, high int) string {
	if low == high {
		return fmt.Sprint(low)
	}
	return fmt.Sprintf("%d to %d", low, high)
}
