package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	// How long before a refresh falls due a kill is far enough away from it.
	margin = 200 * time.Millisecond
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
	began      time.Time // the first login
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
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	f.say("%d users, their sessions %s", len(f.users), f.place.where())
	var shown sync.WaitGroup
	shown.Go(func() { f.screen.ShowProgress(ctx, f.progress) })
	err := f.live(ctx, duration)
	if err != nil {
		cancel() // the rest would show nothing
	}
	<-ctx.Done()
	shown.Wait()
	err = errors.Join(err, f.stop())
	o := f.outcome()
	f.screen.Finish(o.String())
	return errors.Join(err, o.failure())
}

// live starts the replicas, and kills one and starts it again.
func (f *fleet) live(ctx context.Context, duration time.Duration) error {
	for _, r := range f.replicas {
		if err := r.start(f.order()); err != nil {
			return err
		}
	}
	f.say("%d replicas start, each a process", len(f.replicas))
	victim := f.replicas[1]
	if !sleep(ctx, min(duration/3, 5*time.Second)) || !f.awaitCalm(ctx) {
		return tooLate(ctx)
	}
	if err := victim.kill(); err != nil {
		return err
	}
	f.say("replica %d is killed, while no refresh is under way", victim.number)
	if !sleep(ctx, min(duration/4, 3*time.Second)) {
		return tooLate(ctx)
	}
	f.say("replica %d starts again", victim.number)
	return victim.start(f.order())
}

// tooLate is an error if the time is up, and none after a Ctrl-C.
func tooLate(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("there was no moment for a kill and a restart: this machine is too busy, or -for too short")
	}
	return nil
}

func (f *fleet) order() order {
	return order{URL: f.srv.URL, Project: project, Users: f.ids(), Place: f.place}
}

// awaitCalm waits for a moment to kill somebody.
//
// A process that dies after the API has granted its refresh and before the new
// session is stored takes the session with it: the API has spent the old
// refresh token, and nobody else has seen the new one. No store can help that,
// it lasts as long as a write to the disk, and the user has to log in again. This
// program shows what a kill does otherwise, so it kills while no refresh is
// under way. The replicas themselves go on sending requests.
func (f *fleet) awaitCalm(ctx context.Context) bool {
	for !f.calm(ctx) {
		if !sleep(ctx, 20*time.Millisecond) {
			return false
		}
	}
	return true
}

// calm reports whether for each user what the API issued last is what is
// stored, has been for a while, and will be.
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
