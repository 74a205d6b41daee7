package walletauth_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// keptEvents collects what OnEvent reports.
type keptEvents struct {
	mu   sync.Mutex
	list []walletauth.Event
}

func (e *keptEvents) add(_ context.Context, event walletauth.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
}

func (e *keptEvents) all() []walletauth.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

func (e *keptEvents) types() []walletauth.EventType {
	var types []walletauth.EventType
	for _, event := range e.all() {
		types = append(types, event.Type)
	}
	return types
}

// were demands exactly these events. An Err in want is found by errors.Is.
func (k *kept) were(want ...walletauth.Event) {
	k.t.Helper()
	if diff := cmp.Diff(want, k.events.all(), cmpopts.EquateErrors()); diff != "" {
		k.t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestAPlainRequestMakesNoEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		for range 100 {
			k.works(0)
			time.Sleep(2 * time.Second)
		}
		k.were()
	})
}

func TestEventsTellWhyARefreshBeganAndHowItEnded(t *testing.T) {
	for why, c := range map[walletauth.Reason]struct {
		age    time.Duration
		before func(*kept)
		after  []walletauth.EventType
	}{
		walletauth.Expiring: {age: early},
		walletauth.Expired:  {age: 5 * time.Minute},
		walletauth.Rejected: {
			age:    time.Minute,
			before: func(k *kept) { k.srv.RevokeAccess("user") },
			after:  []walletauth.EventType{walletauth.RequestReplayed},
		},
	} {
		inBubble(t, string(why), func(t *testing.T) {
			k := newKept(t)
			k.srv.FailRefresh(1, walletauthtest.Fault{Status: 503, Header: map[string][]string{"Retry-After": {"2"}}})
			k.at(c.age)
			if c.before != nil {
				c.before(k)
			}
			if _, err := k.get(t.Context()); err != nil {
				t.Fatal(err)
			}
			k.shutdown()
			want := []walletauth.Event{
				{Type: walletauth.RefreshBegan, Reason: why, SessionID: k.first.ID, UserID: "user"},
				{Type: walletauth.RefreshSucceeded, Reason: why, SessionID: k.first.ID, UserID: "user", Duration: 2 * time.Second, Attempts: 2},
			}
			for _, more := range c.after {
				want = append(want, walletauth.Event{Type: more, SessionID: k.first.ID, UserID: "user"})
			}
			got := k.events.all()
			for i, e := range got {
				if e.Duration > 2*time.Second && e.Duration <= 2400*time.Millisecond { // a fifth of jitter
					got[i].Duration = 2 * time.Second
				}
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateErrors()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEventsNameTheKeyAndTheSessionThatIsCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeptBy(t, walletauthtest.Config{TB: t, NewSessionID: true})
		s := k.login("key", "other")
		k.at(5 * time.Minute)
		if _, err := k.get(walletauth.WithKey(t.Context(), "key")); err != nil {
			t.Fatal(err)
		}
		now := k.srv.Sessions("other")[0]
		k.were(
			walletauth.Event{Type: walletauth.RefreshBegan, Reason: walletauth.Expired, Key: "key", SessionID: s.ID, UserID: "other"},
			walletauth.Event{Type: walletauth.RefreshSucceeded, Reason: walletauth.Expired, Key: "key", SessionID: now.ID, UserID: "other", Attempts: 1},
		)
	})
}

func TestEventsTellAFailedRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.FailRefresh(1, walletauthtest.Fault{Status: 404, Delay: time.Second})
		k.at(5 * time.Minute)
		err := k.fails(time.Second)
		_ = k.fails(0) // no further event
		k.were(
			walletauth.Event{Type: walletauth.RefreshBegan, Reason: walletauth.Expired, SessionID: k.first.ID, UserID: "user"},
			walletauth.Event{Type: walletauth.RefreshFailed, Reason: walletauth.Expired, SessionID: k.first.ID, UserID: "user", Duration: time.Second, Attempts: 1, Err: err},
		)
	})
}

func TestEventsTellOnceThatASessionIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t)
		k.srv.RevokeSessions("user")
		k.at(5 * time.Minute)
		for _, took := range []time.Duration{750 * time.Millisecond, 0, 0} {
			_ = k.fails(took)
		}
		k.were(
			walletauth.Event{Type: walletauth.RefreshBegan, Reason: walletauth.Expired, SessionID: k.first.ID, UserID: "user"},
			walletauth.Event{Type: walletauth.SessionOver, Reason: walletauth.Expired, SessionID: k.first.ID, UserID: "user", Duration: 750 * time.Millisecond, Attempts: 1, Err: walletauth.ErrSessionExpired},
		)
	})
}

func TestEventsTellThatASessionWasAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newKept(t)
		b := a.another()
		a.srv.FailRefresh(1, walletauthtest.Fault{Delay: time.Second})
		a.at(5 * time.Minute)
		var wg sync.WaitGroup
		wg.Go(func() { a.works(time.Second) })
		synctest.Wait()
		wg.Go(func() { b.works(time.Second) })
		wg.Wait()
		b.were(walletauth.Event{Type: walletauth.SessionAdopted, Reason: walletauth.Expired, SessionID: a.first.ID, UserID: "user"})
	})
}

func TestEventsTellWhatCouldNotBeStoredAndThatItWasLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, _, works := newUnsaving(t)
		k.at(5 * time.Minute)
		k.works(0)
		works()
		k.shutdown()
		refresh := walletauth.Event{Reason: walletauth.Expired, SessionID: k.first.ID, UserID: "user", Attempts: 1}
		began, succeeded, failed := refresh, refresh, refresh
		began.Type, began.Attempts = walletauth.RefreshBegan, 0
		succeeded.Type = walletauth.RefreshSucceeded
		failed.Type, failed.Err = walletauth.SaveFailed, errFull
		k.were(began, succeeded, failed, walletauth.Event{Type: walletauth.SavedLater, SessionID: k.first.ID, UserID: "user"})
	})
}

func TestLogEventsWritesFieldsThatApplyAtTheLevelOfTheEvent(t *testing.T) {
	levels := map[walletauth.EventType]string{
		walletauth.RefreshBegan: "DEBUG", walletauth.RefreshSucceeded: "DEBUG", walletauth.SessionAdopted: "DEBUG",
		walletauth.RequestReplayed: "DEBUG", walletauth.SavedLater: "DEBUG",
		walletauth.RefreshFailed: "WARN", walletauth.SaveFailed: "WARN", walletauth.SessionOver: "WARN",
	}
	for _, what := range slices.Sorted(maps.Keys(levels)) {
		if got, want := logged(walletauth.Event{Type: what}), "level="+levels[what]+` msg=walletauth event="`+string(what)+"\"\n"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	full := walletauth.Event{
		Type: walletauth.RefreshFailed, Reason: walletauth.Rejected, Key: "k", SessionID: "s", UserID: "u",
		Duration: time.Second, Attempts: 3, Err: errors.New("oh no"),
	}
	fields := `event="refresh failed" reason=rejected key=k session_id=s user_id=u duration=1s attempts=3 error="oh no"`
	if got, want := logged(full), "level=WARN msg=walletauth "+fields+"\n"; got != want {
		t.Errorf("%s, want %s", got, want)
	}

	var b bytes.Buffer
	textLogger(&b).Info("m", "e", full)
	if got := b.String(); strings.Count(got, " e.") != 8 || !strings.Contains(got, ` e.event="refresh failed" e.reason=rejected `) {
		t.Errorf("LogValue gives %s", got)
	}
}

func TestLogEventsOfNilIsTheDefaultLoggerOfTheMoment(t *testing.T) {
	log := walletauth.LogEvents(nil)
	before := slog.Default()
	defer slog.SetDefault(before)
	var b bytes.Buffer
	slog.SetDefault(textLogger(&b))
	log(t.Context(), walletauth.Event{Type: walletauth.SessionOver})
	if !strings.Contains(b.String(), "session over") {
		t.Errorf("the default logger got %q", b.String())
	}
}

func logged(e walletauth.Event) string {
	var b bytes.Buffer
	walletauth.LogEvents(textLogger(&b))(context.Background(), e)
	return b.String()
}

// textLogger writes all levels, without the time.
func textLogger(b *bytes.Buffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}
