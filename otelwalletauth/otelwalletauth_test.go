package otelwalletauth_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/otelwalletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

const (
	key      = "ada's laptop"
	user     = "user-ada"
	lifetime = 5 * time.Minute
)

// bench is a session over a stand-in, in a bubble, with all telemetry kept in
// memory.
type bench struct {
	*testing.T
	srv       *walletauthtest.Server
	transport *walletauth.Transport
	reader    *sdkmetric.ManualReader
	spans     *tracetest.SpanRecorder
	tracer    trace.Tracer // the program's own
}

func inBubble(t *testing.T, test func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, reader: sdkmetric.NewManualReader(), spans: tracetest.NewSpanRecorder()}
		tracers := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(b.spans))
		b.tracer = tracers.Tracer("program")
		onEvent, err := otelwalletauth.Instrumentation{
			MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(b.reader)),
			TracerProvider: tracers,
		}.OnEvent()
		if err != nil {
			t.Fatal(err)
		}
		b.srv = walletauthtest.NewUnstartedServer(walletauthtest.Config{TB: t, AccessTokenTTL: lifetime})
		b.transport = &walletauth.Transport{
			Store: &walletauth.MemoryStore{}, BaseURL: b.srv.URL, Base: b.srv.RoundTripper(),
			RefreshTimeout: time.Second, OnEvent: onEvent,
		}
		b.login()
		test(b)
	})
}

func (b *bench) login() {
	b.Helper()
	if err := walletauth.Save(b.Context(), b.transport.Store, key, b.srv.Login(user)); err != nil {
		b.Fatal(err)
	}
}

// get makes a request in a span of the program's.
func (b *bench) get() error {
	ctx, span := b.tracer.Start(walletauth.WithKey(b.Context(), key), "request")
	defer span.End()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.srv.URL+"/wallets", nil)
	if err != nil {
		return err
	}
	resp, err := b.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (b *bench) mustGet() {
	b.Helper()
	if err := b.get(); err != nil {
		b.Fatal(err)
	}
}

// pass lets time pass, the bubble's.
func pass(d time.Duration) { <-time.After(d) }

// metrics returns what was counted, as "name{key=value}", and of a histogram
// the count and the sum. Zeros are left out.
func (b *bench) metrics() map[string]float64 {
	b.Helper()
	var all metricdata.ResourceMetrics
	if err := b.reader.Collect(b.Context(), &all); err != nil {
		b.Fatal(err)
	}
	got := make(map[string]float64)
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					got[m.Name+label(p.Attributes)] = float64(p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					got[m.Name+".count"+label(p.Attributes)] = float64(p.Count)
					got[m.Name+".sum"+label(p.Attributes)] = p.Sum
				}
			}
		}
	}
	maps.DeleteFunc(got, func(_ string, v float64) bool { return v == 0 })
	return got
}

func label(set attribute.Set) string {
	if set.Len() == 0 {
		return ""
	}
	return "{" + set.Encoded(attribute.DefaultEncoder()) + "}"
}

func (b *bench) wantMetrics(want map[string]float64) {
	b.Helper()
	got := b.metrics()
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if got[name] != want[name] {
			b.Errorf("%s = %v, want %v", name, got[name], want[name])
		}
		delete(want, name)
	}
	for name := range want {
		b.Errorf("%s is missing", name)
	}
}

func (b *bench) refreshSpans() []sdktrace.ReadOnlySpan {
	return slices.DeleteFunc(b.spans.Ended(), func(s sdktrace.ReadOnlySpan) bool { return s.Name() != "walletauth refresh" })
}

func TestPlainRequestsAddToNothing(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.mustGet()
		b.wantMetrics(map[string]float64{})
	})
}

func TestCountersBeginAtZeroSoThatTheFirstEventIsAnIncrease(t *testing.T) {
	inBubble(t, func(b *bench) {
		var all metricdata.ResourceMetrics
		if err := b.reader.Collect(b.Context(), &all); err != nil {
			b.Fatal(err)
		}
		var names []string
		for _, m := range all.ScopeMetrics[0].Metrics {
			names = append(names, m.Name)
		}
		slices.Sort(names)
		want := []string{
			"walletauth.endpoint.down", "walletauth.endpoint.up", "walletauth.refresh.held",
			"walletauth.request.replayed", "walletauth.session.adopted", "walletauth.session.over",
			"walletauth.session.saved_later", "walletauth.session.unsaved",
		}
		if !slices.Equal(names, want) {
			t.Errorf("%q, want %q", names, want)
		}
	})
}

func TestRefreshesAreCountedByReason(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.srv.FailRefresh(-1, walletauthtest.Fault{Delay: 500 * time.Millisecond})
		pass(lifetime) // expired
		b.mustGet()
		pass(lifetime - 12*time.Second) // expiring, behind the request
		b.mustGet()
		synctest.Wait()
		pass(time.Second)
		b.srv.RevokeAccess(user) // rejected
		b.mustGet()
		b.wantMetrics(map[string]float64{
			"walletauth.refreshes{walletauth.refresh.reason=expired}":               1,
			"walletauth.refreshes{walletauth.refresh.reason=expiring}":              1,
			"walletauth.refreshes{walletauth.refresh.reason=rejected}":              1,
			"walletauth.refresh.duration.count{walletauth.refresh.reason=expired}":  1,
			"walletauth.refresh.duration.count{walletauth.refresh.reason=expiring}": 1,
			"walletauth.refresh.duration.count{walletauth.refresh.reason=rejected}": 1,
			"walletauth.refresh.duration.sum{walletauth.refresh.reason=expired}":    0.5,
			"walletauth.refresh.duration.sum{walletauth.refresh.reason=expiring}":   0.5,
			"walletauth.refresh.duration.sum{walletauth.refresh.reason=rejected}":   0.5,
			"walletauth.request.replayed":                                           1,
		})
	})
}

func TestFailedRefreshesAreCountedByError(t *testing.T) {
	tests := []struct {
		want   string
		befall func(b *bench)
	}{
		{"503", func(b *bench) { b.srv.FailRefresh(-1, walletauthtest.Fault{Status: 503}) }},
		{"404", func(b *bench) { b.srv.FailRefresh(-1, walletauthtest.Fault{Status: 404}) }},
		{"invalid_reply", func(b *bench) {
			b.srv.FailRefresh(-1, walletauthtest.Fault{Body: "<html>log in to this network</html>"})
		}},
		{"timeout", func(b *bench) { b.srv.FailRefresh(-1, walletauthtest.Fault{Delay: time.Hour}) }},
		{"_OTHER", func(b *bench) { b.srv.FailRefresh(-1, walletauthtest.Fault{Drop: true}) }},
		{"session_over", func(b *bench) { b.srv.RevokeSessions(user) }},
	}
	for _, test := range tests {
		t.Run(test.want, func(t *testing.T) {
			inBubble(t, func(b *bench) {
				test.befall(b)
				pass(lifetime)
				if b.get() == nil {
					t.Error("the request succeeded")
				}
				name := "walletauth.refreshes{error.type=" + test.want + ",walletauth.refresh.reason=expired}"
				if got := b.metrics(); got[name] != 1 {
					t.Errorf("%s is not 1 in %v", name, got)
				}
				if over := b.metrics()["walletauth.session.over"]; (over == 1) != (test.want == "session_over") {
					t.Errorf("%v sessions over", over)
				}
			})
		})
	}
}

// brokenStore is one whose writing fails.
type brokenStore struct {
	walletauth.MemoryStore
	update error // instead of Update
	save   error // after the function of Update was called
}

func (s *brokenStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	if s.update != nil {
		return s.update
	}
	return s.MemoryStore.Update(ctx, key, func(ctx context.Context, current *walletauth.Session) (*walletauth.Session, error) {
		next, err := fn(ctx, current)
		if s.save != nil {
			return nil, s.save
		}
		return next, err
	})
}

func TestRefreshThatWasNotSentIsCountedAndHasNoDuration(t *testing.T) {
	inBubble(t, func(b *bench) {
		store := &brokenStore{}
		b.transport.Store = store
		b.login()
		store.update = errors.New("no connection")
		pass(lifetime)
		if b.get() == nil {
			t.Error("the request succeeded")
		}
		b.wantMetrics(map[string]float64{
			"walletauth.refreshes{error.type=store,walletauth.refresh.reason=expired}": 1,
		})
	})
}

func TestRefreshesHeldBackInAnOutageAreCounted(t *testing.T) {
	inBubble(t, func(b *bench) {
		var held atomic.Int64
		onEvent := b.transport.OnEvent
		b.transport.OnEvent = func(ctx context.Context, e walletauth.Event) {
			held.Add(int64(e.Held))
			onEvent(ctx, e)
		}
		keys := []string{key, "b", "c", "d"}
		for _, k := range keys[1:] {
			if err := walletauth.Save(b.Context(), b.transport.Store, k, b.srv.Login("user "+k)); err != nil {
				t.Fatal(err)
			}
		}
		pass(lifetime)
		b.srv.FailRefresh(-1, walletauthtest.Fault{Status: 503})
		ask := func(seconds int) {
			for range seconds {
				for _, k := range keys {
					_, _ = b.transport.Session(walletauth.WithKey(b.Context(), k))
				}
				pass(time.Second)
			}
		}
		ask(30)
		if got := b.metrics(); got["walletauth.endpoint.down"] != 1 || got["walletauth.endpoint.up"] != 0 {
			t.Errorf("down: %v", got)
		}
		b.srv.ClearFaults()
		ask(30)
		got := b.metrics()
		if got["walletauth.endpoint.down"] != 1 || got["walletauth.endpoint.up"] != 1 {
			t.Errorf("back: %v", got)
		}
		if n := held.Load(); n == 0 || got["walletauth.refresh.held"] != float64(n) {
			t.Errorf("held %v, want %d", got["walletauth.refresh.held"], n)
		}
	})
}

func TestUnsavedSessionsAreCounted(t *testing.T) {
	inBubble(t, func(b *bench) {
		store := &brokenStore{}
		b.transport.Store = store
		b.login()
		store.save = errors.New("disk full")
		pass(lifetime)
		b.mustGet()
		if got := b.metrics(); got["walletauth.session.unsaved"] != 1 || got["walletauth.session.saved_later"] != 0 {
			t.Errorf("unsaved: %v", got)
		}
		store.save = nil
		if err := b.transport.Shutdown(b.Context()); err != nil {
			t.Error(err)
		}
		if got := b.metrics(); got["walletauth.session.unsaved"] != 1 || got["walletauth.session.saved_later"] != 1 {
			t.Errorf("saved later: %v", got)
		}
	})
}

func TestAdoptionIsCountedAndIsNoRefresh(t *testing.T) {
	inBubble(t, func(b *bench) {
		waiting, adopt := make(chan struct{}), make(chan struct{})
		b.transport.Store = &slowStore{TokenStore: b.transport.Store, waiting: waiting, proceed: adopt}
		pass(lifetime)
		go func() {
			<-waiting
			b.login() // the newer session
			close(adopt)
		}()
		b.mustGet()
		b.wantMetrics(map[string]float64{"walletauth.session.adopted": 1})
		if n := len(b.refreshSpans()); n != 0 {
			t.Errorf("%d spans, want none", n)
		}
	})
}

// slowStore holds its Update until the test says so, once.
type slowStore struct {
	walletauth.TokenStore
	waiting chan struct{}
	proceed chan struct{}
}

func (s *slowStore) Update(ctx context.Context, key string, fn func(context.Context, *walletauth.Session) (*walletauth.Session, error)) error {
	if waiting := s.waiting; waiting != nil {
		s.waiting = nil
		close(waiting)
		<-s.proceed
	}
	return s.TokenStore.Update(ctx, key, fn)
}

func TestRefreshIsASpanBelowTheRequestThatCausedIt(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.srv.FailRefresh(1, walletauthtest.Fault{Delay: 500 * time.Millisecond})
		pass(lifetime)
		began := time.Now()
		b.mustGet()
		refreshes := b.refreshSpans()
		if len(refreshes) != 1 {
			t.Fatalf("%d spans, want 1", len(refreshes))
		}
		refresh, request := refreshes[0], b.spans.Ended()[1]
		if refresh.Parent().SpanID() != request.SpanContext().SpanID() {
			t.Error("it is not below the request's")
		}
		if !refresh.StartTime().Equal(began) || !refresh.EndTime().Equal(began.Add(500*time.Millisecond)) {
			t.Errorf("from %s to %s after the request", refresh.StartTime().Sub(began), refresh.EndTime().Sub(began))
		}
		want := attribute.NewSet(attribute.String("walletauth.refresh.reason", "expired"), attribute.Int("walletauth.refresh.attempts", 1))
		if got := attribute.NewSet(refresh.Attributes()...); !got.Equals(&want) {
			t.Errorf("attributes %v", refresh.Attributes())
		}
	})
}

func TestSpanOfAFailedRefreshSaysWhy(t *testing.T) {
	inBubble(t, func(b *bench) {
		b.srv.RevokeSessions(user)
		pass(lifetime)
		if err := b.get(); !errors.Is(err, walletauth.ErrSessionExpired) {
			t.Fatal(err)
		}
		status := b.refreshSpans()[0].Status()
		if status.Code != codes.Error || !strings.Contains(status.Description, "401") {
			t.Errorf("status %v", status)
		}
	})
}

// TestNothingTellsWhoTheUserIs looks at everything that leaves.
func TestNothingTellsWhoTheUserIs(t *testing.T) {
	inBubble(t, func(b *bench) {
		sessions := b.srv.Sessions(user)
		b.srv.FailRefresh(2, walletauthtest.Fault{Status: 503})
		pass(lifetime)
		b.mustGet()
		sessions = append(sessions, b.srv.Sessions(user)...)
		b.srv.RevokeSessions(user)
		pass(lifetime)
		_ = b.get()

		all := fmt.Sprint(b.metrics())
		for _, span := range b.refreshSpans() {
			all += fmt.Sprint(span.Name(), span.Attributes(), span.Status(), span.Events())
		}
		for _, s := range sessions {
			for _, secret := range []string{key, user, s.ID, s.AccessToken, s.RefreshToken} {
				if strings.Contains(all, secret) {
					t.Errorf("%q is in %s", secret, all)
				}
			}
		}
	})
}

func TestZeroInstrumentationUsesTheGlobalProviders(t *testing.T) {
	onEvent, err := otelwalletauth.Instrumentation{}.OnEvent()
	if err != nil {
		t.Fatal(err)
	}
	onEvent(t.Context(), walletauth.Event{Type: walletauth.RefreshSucceeded})
}

type strictProvider struct{ noop.MeterProvider }

func (strictProvider) Meter(string, ...metric.MeterOption) metric.Meter { return strictMeter{} }

type strictMeter struct{ noop.Meter }

func (strictMeter) Int64Counter(name string, _ ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return nil, errors.New(name + " is not wanted")
}

func TestRefusedInstrumentIsAnError(t *testing.T) {
	_, err := otelwalletauth.Instrumentation{MeterProvider: strictProvider{}}.OnEvent()
	if err == nil || !strings.Contains(err.Error(), "walletauth.session.over is not wanted") {
		t.Errorf("error %v", err)
	}
}

func TestTeeCallsEachInTurn(t *testing.T) {
	var calls []string
	hook := func(name string) func(context.Context, walletauth.Event) {
		return func(_ context.Context, e walletauth.Event) { calls = append(calls, name+": "+string(e.Type)) }
	}
	otelwalletauth.Tee(hook("a"), nil, hook("b"))(t.Context(), walletauth.Event{Type: walletauth.SessionOver})
	if want := []string{"a: session over", "b: session over"}; !slices.Equal(calls, want) {
		t.Errorf("calls %q, want %q", calls, want)
	}
}
