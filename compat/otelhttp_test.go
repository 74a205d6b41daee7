package compat

import (
	"context"
	"net/http"
	"testing"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func newTracer() (*tracetest.SpanRecorder, otelhttp.Option) {
	spans := tracetest.NewSpanRecorder()
	return spans, otelhttp.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
}

// Outside of the Transport, otelhttp sees what the program does: a span for each
// call, with the time of a refresh in it. A 401 after which the request was sent
// again does not show.
func TestOtelhttpOutsideSeesCalls(t *testing.T) {
	api := newStandIn(t)
	spans, tracer := newTracer()
	client := &http.Client{Transport: otelhttp.NewTransport(api.transport(), tracer)}

	api.outlive(t, func(ctx context.Context) error { return api.get(ctx, client, "/wallets") })
	if n := len(spans.Ended()); n != 5 {
		t.Errorf("%d spans, want one for each of 5 calls", n)
	}
}

// Inside, as Base, it sees what is sent: the refreshes, and both tries of a
// request that was sent again.
func TestOtelhttpInsideSeesWhatIsSent(t *testing.T) {
	api := newStandIn(t)
	spans, tracer := newTracer()
	transport := api.transport()
	transport.Base = otelhttp.NewTransport(http.DefaultTransport, tracer)
	client := &http.Client{Transport: transport}

	api.outlive(t, func(ctx context.Context) error { return api.get(ctx, client, "/wallets") })
	if n := len(spans.Ended()); n != 5+1+troubles {
		t.Errorf("%d spans, want one for each of 5 calls, 1 replay and %d refreshes", n, troubles)
	}
}

// In both places, what is sent hangs below the call that caused it, a refresh
// below the first call that had to wait for it.
func TestOtelhttpInsideAndOutsideIsOneTrace(t *testing.T) {
	api := newStandIn(t)
	calls, outside := newTracer()
	sent, inside := newTracer()
	transport := api.transport()
	transport.Base = otelhttp.NewTransport(http.DefaultTransport, inside)
	client := &http.Client{Transport: otelhttp.NewTransport(transport, outside)}

	api.outlive(t, func(ctx context.Context) error { return api.get(ctx, client, "/wallets") })
	known := make(map[trace.SpanID]bool)
	for _, span := range calls.Ended() {
		known[span.SpanContext().SpanID()] = true
	}
	for _, span := range sent.Ended() {
		if !known[span.Parent().SpanID()] {
			t.Errorf("%s of %s hangs below no call", span.Name(), span.SpanContext().TraceID())
		}
	}
	if len(known) != 5 || len(sent.Ended()) != 10 {
		t.Errorf("%d calls and %d sent, want 5 and 10", len(known), len(sent.Ended()))
	}
}
