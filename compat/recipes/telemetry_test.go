package recipes

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/otelwalletauth"
)

// observe returns an OnEvent that counts for Prometheus and logs.
func observe(registry *prometheus.Registry) (func(context.Context, walletauth.Event), error) {
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry))
	if err != nil {
		return nil, err
	}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))
	onEvent, err := otelwalletauth.Instrumentation{MeterProvider: meters}.OnEvent()
	if err != nil {
		return nil, err
	}
	return otelwalletauth.Tee(onEvent, walletauth.LogEvents(slog.Default())), nil
}

func TestObserve(t *testing.T) {
	registry := prometheus.NewRegistry()
	onEvent, err := observe(registry)
	if err != nil {
		t.Fatal(err)
	}
	transport := loggedIn(t, "", "ivy")
	transport.OnEvent = onEvent
	walletKit.RevokeAccess("ivy")
	if err := listWallets(t.Context(), &http.Client{Transport: transport}); err != nil {
		t.Fatal(err)
	}
	page := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if !strings.Contains(page.Body.String(), "\nwalletauth_refreshes_total{") {
		t.Errorf("not counted:\n%s", page.Body)
	}
}
