// Package otelwalletauth turns the events of a [walletauth.Transport] into
// OpenTelemetry metrics and traces.
//
//	onEvent, err := otelwalletauth.Instrumentation{}.OnEvent()
//	if err != nil {
//		return err
//	}
//	transport := &walletauth.Transport{Store: store, OnEvent: onEvent}
//
// # Metrics
//
//	walletauth.refreshes            {refresh}  refreshes that ended, by reason and error
//	walletauth.refresh.duration     s          how long those took that were sent, likewise
//	walletauth.session.adopted      {session}  refreshes not sent, as the store held a newer session by then
//	walletauth.session.over         {session}  sessions that ended: their users have to log in again
//	walletauth.session.unsaved      {session}  times that a session could not be stored
//	walletauth.session.saved_later  {session}  such sessions that were stored after all
//	walletauth.request.replayed     {request}  requests that were sent again after a 401
//	walletauth.endpoint.down        {outage}   times that the refresh endpoint was taken for down
//	walletauth.endpoint.up          {outage}   times that it was back after that
//	walletauth.refresh.held         {refresh}  refreshes that were not sent because it was down, counted once it is back
//
// All but the histogram of durations are counters, which begin at zero, those
// of refreshes when there is one. Refreshes have the attribute
// walletauth.refresh.reason (expiring, expired or rejected) and, where they
// failed, error.type:
//
//	session_over   the session has ended
//	400 to 599     the status of the reply
//	invalid_reply  a reply that was not what it should be
//	timeout        no reply in time
//	store          not sent, as the store could not exclude others
//	_OTHER         no connection, for example
//
// No attribute holds a token, a key or a user, and all have few values. A
// Transport that makes only plain requests adds to none.
//
// # Traces
//
// A refresh is a span, "walletauth refresh", below the span of the first
// request that caused it. It has the attributes above and
// walletauth.refresh.attempts. A refresh that nobody waited for may end after
// the request that caused it.
//
// What is sent over HTTP does not show here: go.opentelemetry.io's otelhttp
// does that, as the Transport's Base or outside of it.
package otelwalletauth

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/walletauth/walletauth"
)

const scope = "github.com/walletauth/walletauth/otelwalletauth"

// Attribute keys. error.type is the one of the semantic conventions.
const (
	reasonKey   = attribute.Key("walletauth.refresh.reason")
	attemptsKey = attribute.Key("walletauth.refresh.attempts")
	errorKey    = attribute.Key("error.type")
)

// Instrumentation says where metrics and traces go. The zero value uses
// OpenTelemetry's global providers.
type Instrumentation struct {
	// MeterProvider gets the metrics. If nil, otel.GetMeterProvider().
	MeterProvider metric.MeterProvider
	// TracerProvider gets the spans. If nil, otel.GetTracerProvider().
	TracerProvider trace.TracerProvider
}

// OnEvent returns a function for [walletauth.Transport.OnEvent]. It may be given
// to any number of Transports, and is safe for concurrent use.
//
// It returns the MeterProvider's error, if that refuses to make an instrument.
func (i Instrumentation) OnEvent() (func(context.Context, walletauth.Event), error) {
	if i.MeterProvider == nil {
		i.MeterProvider = otel.GetMeterProvider()
	}
	if i.TracerProvider == nil {
		i.TracerProvider = otel.GetTracerProvider()
	}
	r := &recorder{tracer: i.TracerProvider.Tracer(scope)}
	if err := r.instruments(i.MeterProvider.Meter(scope)); err != nil {
		return nil, err
	}
	return r.record, nil
}

// Tee returns a function for [walletauth.Transport.OnEvent] that calls each of
// hooks in turn, to log as well as to count, for example:
//
//	OnEvent: otelwalletauth.Tee(onEvent, walletauth.LogEvents(nil)),
//
// One that is nil is left out. It is safe for concurrent use if the hooks are.
func Tee(hooks ...func(context.Context, walletauth.Event)) func(context.Context, walletauth.Event) {
	return func(ctx context.Context, e walletauth.Event) {
		for _, hook := range hooks {
			if hook != nil {
				hook(ctx, e)
			}
		}
	}
}

type recorder struct {
	tracer    trace.Tracer
	refreshes metric.Int64Counter
	duration  metric.Float64Histogram
	held      metric.Int64Counter
	counters  map[walletauth.EventType]metric.Int64Counter
}

// counted are the events that are one counter each.
var counted = []struct {
	event                   walletauth.EventType
	name, unit, description string
}{
	{walletauth.SessionAdopted, "walletauth.session.adopted", "{session}", "Refreshes not sent, as the store held a newer session by then."},
	{walletauth.SessionOver, "walletauth.session.over", "{session}", "Sessions that ended: their users have to log in again."},
	{walletauth.SaveFailed, "walletauth.session.unsaved", "{session}", "Times that a session could not be stored."},
	{walletauth.SavedLater, "walletauth.session.saved_later", "{session}", "Sessions that could not be stored and were later."},
	{walletauth.RequestReplayed, "walletauth.request.replayed", "{request}", "Requests that were sent again after a 401."},
	{walletauth.EndpointDown, "walletauth.endpoint.down", "{outage}", "Times that the refresh endpoint was taken for down."},
	{walletauth.EndpointUp, "walletauth.endpoint.up", "{outage}", "Times that the refresh endpoint was back."},
}

// instruments makes what record writes to.
func (r *recorder) instruments(meter metric.Meter) error {
	var errs [3]error
	r.refreshes, errs[0] = meter.Int64Counter("walletauth.refreshes",
		metric.WithUnit("{refresh}"), metric.WithDescription("Refreshes that ended."))
	// From a reply that came at once to RefreshTimeout's default.
	r.duration, errs[1] = meter.Float64Histogram("walletauth.refresh.duration",
		metric.WithUnit("s"), metric.WithDescription("Duration of refreshes that were sent, retries and saving included."),
		metric.WithExplicitBucketBoundaries(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
	r.held, errs[2] = meter.Int64Counter("walletauth.refresh.held",
		metric.WithUnit("{refresh}"), metric.WithDescription("Refreshes that were not sent because the endpoint was down."))
	err := errors.Join(errs[:]...)
	r.counters = make(map[walletauth.EventType]metric.Int64Counter)
	for _, c := range counted {
		counter, e := meter.Int64Counter(c.name, metric.WithUnit(c.unit), metric.WithDescription(c.description))
		r.counters[c.event], err = counter, errors.Join(err, e)
	}
	if err != nil {
		return err
	}
	r.held.Add(context.Background(), 0)
	for _, counter := range r.counters {
		counter.Add(context.Background(), 0) // or the first event would be no increase to an alert
	}
	return nil
}

func (r *recorder) record(ctx context.Context, e walletauth.Event) {
	if counter := r.counters[e.Type]; counter != nil {
		counter.Add(ctx, 1)
	}
	switch e.Type {
	case walletauth.EndpointDown, walletauth.EndpointUp:
		r.held.Add(ctx, int64(e.Held))
	case walletauth.RefreshSucceeded, walletauth.RefreshFailed, walletauth.SessionOver:
		r.refreshed(ctx, e)
	}
}

// refreshed records a refresh that ended with e.
func (r *recorder) refreshed(ctx context.Context, e walletauth.Event) {
	attrs := []attribute.KeyValue{reasonKey.String(string(e.Reason))}
	if e.Err != nil {
		attrs = append(attrs, errorKey.String(errorType(e)))
	}
	ctx, span := r.span(ctx, e, attrs)
	defer span.End()
	set := metric.WithAttributeSet(attribute.NewSet(attrs...))
	r.refreshes.Add(ctx, 1, set)
	if e.Attempts > 0 { // the rest took no time, and would only lower the mean
		r.duration.Record(ctx, e.Duration.Seconds(), set)
	}
}

// span makes the span when the refresh is over. Begun with the refresh it would
// have to be kept until an end that an adoption, for one, does not have.
func (r *recorder) span(ctx context.Context, e walletauth.Event, attrs []attribute.KeyValue) (context.Context, trace.Span) {
	ctx, span := r.tracer.Start(ctx, "walletauth refresh",
		trace.WithTimestamp(time.Now().Add(-e.Duration)),
		trace.WithAttributes(attrs...),
		trace.WithAttributes(attemptsKey.Int(e.Attempts)))
	if e.Err != nil {
		span.SetStatus(codes.Error, e.Err.Error()) // it holds no token
	}
	return ctx, span
}

// errorType is the error of a refresh as one of few values.
func errorType(e walletauth.Event) string {
	var refused *walletauth.RefreshError
	switch {
	case errors.Is(e.Err, walletauth.ErrSessionExpired):
		return "session_over"
	case e.Attempts == 0:
		return "store"
	case errors.Is(e.Err, context.DeadlineExceeded):
		return "timeout"
	case !errors.As(e.Err, &refused) || refused.StatusCode == 0:
		return "_OTHER"
	case refused.StatusCode >= http.StatusBadRequest && refused.StatusCode <= 599:
		return strconv.Itoa(refused.StatusCode)
	default:
		return "invalid_reply"
	}
}
