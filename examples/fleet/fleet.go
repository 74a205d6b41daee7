package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/examples/internal/screen"
	"github.com/walletauth/walletauth/walletauthtest"
)

const (
	project  = "fleet"
	lifetime = 3 * time.Second // of an access token

	// A Transport refreshes in the last fifth of a token's life. No replica ever
	// sees a longer life than this one, so none is earlier.
	due = lifetime * 4 / 5

	// How long after a refresh the replicas that wanted the same one may still
	// be looking at its result, inside of the store's exclusion.
	settled = 300 * time.Millisecond
	// How long before a refresh falls due a kill is far enough away from it, on a
	// machine that is busy with other things too.
	margin = 500 * time.Millisecond
)

// fleet is a stand-in for the API, a store, and the replicas that share it.
type fleet struct {
	srv        *walletauthtest.Server
	place      place
	store      walletauth.TokenStore
	closeStore func()
	users      []user
	replicas   []*replica
	screen     *screen.Screen
	began      time.Time    // the first login
	shown      atomic.Int64 // how often progress was
}

type user struct{ id, sessionID string }

// newFleet starts the stand-in and logs everybody in. No replica runs yet.
func newFleet(ctx context.Context, o options, shown *screen.Screen) (*fleet, error) {
	place, err := newPlace(o.redis)
	if err != nil {
		return nil, err
	}
	store, closeStore, err := place.open(false)
	if err != nil {
		return nil, err
	}
	f := &fleet{place: place, store: store, closeStore: closeStore, screen: shown, began: time.Now()}
	f.srv = walletauthtest.NewServer(walletauthtest.Config{ProjectID: project, AccessTokenTTL: lifetime})
	for n := range 3 {
		f.replicas = append(f.replicas, &replica{number: n + 1})
	}
	if err := f.login(ctx, o.users); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *fleet) login(ctx context.Context, users int) error {
	for n := range users {
		id := fmt.Sprintf("user-%02d", n+1)
		session := f.srv.Login(id)
		f.users = append(f.users, user{id, session.ID})
		if err := walletauth.Save(ctx, f.store, id, session); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) close() {
	f.place.clear(f.store, f.ids())
	f.closeStore()
	f.srv.Close()
}

func (f *fleet) ids() (ids []string) {
	for _, u := range f.users {
		ids = append(ids, u.id)
	}
	return ids
}

// run returns what went wrong, after the table that shows it.
func (f *fleet) run(ctx context.Context, duration time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.say("%d users, their sessions %s", len(f.users), f.place.where())
	var shown sync.WaitGroup
	shown.Go(func() { f.screen.ShowProgress(ctx, f.progress) })
	err := f.live(ctx, duration)
	if errors.Is(err, context.Canceled) {
		err = nil // by a Ctrl-C
	}
	cancel()
	shown.Wait()
	err = errors.Join(err, f.stop())
	o := f.outcome()
	f.screen.Finish(o.String())
	return errors.Join(err, o.failure())
}

// live starts the replicas, and kills one and starts it again. It returns when
// there is enough to show of that and the time is up.
func (f *fleet) live(ctx context.Context, duration time.Duration) error {
	timeIsUp := after(duration)
	for _, r := range f.replicas {
		if err := r.start(f.order()); err != nil {
			return err
		}
	}
	f.say("%d replicas start, each a process", len(f.replicas))
	victim := f.replicas[1]
	if err := f.await(ctx, after(min(duration/3, 5*time.Second)), f.busy, f.calm); err != nil {
		return err
	}
	if err := victim.kill(); err != nil {
		return err
	}
	f.say("replica %d is killed, while no refresh is under way", victim.number)
	if err := f.await(ctx, after(min(duration/4, 3*time.Second)), f.progressShown()); err != nil {
		return err
	}
	f.say("replica %d starts again", victim.number)
	if err := victim.start(f.order()); err != nil {
		return err
	}
	return f.await(ctx, f.progressShown(), f.busy, f.allRefreshed, timeIsUp)
}

// condition is something to wait for.
type condition func(context.Context) bool

// patience is how long a busy machine may take for something that would otherwise
// take seconds.
const patience = 3 * time.Minute

// await waits until all conditions hold at once.
func (f *fleet) await(ctx context.Context, all ...condition) error {
	unmet := func(c condition) bool { return !c(ctx) }
	for end := time.Now().Add(patience); slices.ContainsFunc(all, unmet); {
		if !sleep(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("after %v there was no moment for a kill and a restart: this machine is too busy", patience)
		}
	}
	return nil
}

// after holds once d has passed since it was called.
func after(d time.Duration) condition {
	end := time.Now().Add(d)
	return func(context.Context) bool { return !time.Now().Before(end) }
}

// progressShown holds once how things are now was shown: when the second progress
// since is being shown, the first is on the screen.
func (f *fleet) progressShown() condition {
	before := f.shown.Load()
	return func(context.Context) bool { return f.shown.Load() >= before+2 }
}

// busy reports whether each replica has sent two requests per user on average, in
// the life that it is in.
func (f *fleet) busy(context.Context) bool {
	return !slices.ContainsFunc(f.replicas, func(r *replica) bool { return r.served() < 2*len(f.users) })
}

func (f *fleet) allRefreshed(context.Context) bool {
	return !slices.ContainsFunc(f.users, func(u user) bool { return f.srv.Refreshes(u.sessionID) == 0 })
}

func (f *fleet) order() order {
	return order{URL: f.srv.URL, Project: project, Users: f.ids(), Place: f.place}
}

// calm reports whether somebody may be killed: for each user, what the API issued
// last is what is stored, has been for a while, and will be.
//
// A process that dies after the API has granted its refresh and before the new
// session is stored takes the session with it: the old refresh token
// has been used, and nobody else has seen the new one. No store can help that,
// it lasts as long as a write to the disk, and the user has to log in again. This
// program shows what a kill does otherwise, so it kills while no refresh is
// under way. The replicas themselves go on sending requests.
func (f *fleet) calm(ctx context.Context) bool {
	for _, u := range f.users {
		issued := f.srv.Sessions(u.id)
		stored, err := f.store.Load(ctx, u.id)
		if err != nil || len(issued) != 1 || stored.RefreshToken != issued[0].RefreshToken {
			return false
		}
		age := lifetime - time.Until(stored.AccessTokenExpiresAt)
		if age < settled || age > due-margin {
			return false
		}
	}
	return true
}

// stop ends all replicas at once, as each may take a moment.
func (f *fleet) stop() error {
	errs := make([]error, len(f.replicas))
	var all sync.WaitGroup
	for i, r := range f.replicas {
		all.Go(func() { errs[i] = r.stop() })
	}
	all.Wait()
	return errors.Join(errs...)
}

// say prints a line with the time.
func (f *fleet) say(format string, args ...any) {
	f.screen.Say(fmt.Sprintf(format, args...))
}

func (f *fleet) progress() string {
	f.shown.Add(1)
	var sum report
	states := ""
	for _, r := range f.replicas {
		did, _ := r.total()
		sum = sum.plus(did)
		states += fmt.Sprintf("  %d %s", r.number, r.state())
	}
	return fmt.Sprintf("%4.0fs  %d requests, %d failed, %d refreshes  |%s",
		time.Since(f.began).Seconds(), sum.Requests, sum.Failed, f.srv.Stats().Refreshes, states)
}
