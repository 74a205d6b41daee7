package otelwalletauth_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/otelwalletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// What Prometheus sees of an access token that was revoked early, and then of a
// session that has ended.
func Example_prometheus() {
	registry := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo())
	if err != nil {
		log.Fatal(err)
	}
	onEvent, err := otelwalletauth.Instrumentation{
		MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)),
	}.OnEvent()
	if err != nil {
		log.Fatal(err)
	}

	srv := walletauthtest.NewServer(walletauthtest.Config{})
	defer srv.Close()
	store := &walletauth.MemoryStore{}
	client := &http.Client{Transport: &walletauth.Transport{Store: store, BaseURL: srv.URL, OnEvent: onEvent}}
	if err := walletauth.Save(context.Background(), store, "", srv.Login("ada")); err != nil {
		log.Fatal(err)
	}
	for _, befall := range []func(string) int{srv.RevokeAccess, srv.RevokeSessions} {
		befall("ada")
		resp, err := client.Get(srv.URL + "/wallets")
		if errors.Is(err, walletauth.ErrSessionExpired) {
			fmt.Println("log in again")
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
	}
	printCounts(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	// Output:
	// 200 OK
	// log in again
	// walletauth_endpoint_down_total 0
	// walletauth_endpoint_up_total 0
	// walletauth_refresh_duration_seconds_count{walletauth_refresh_reason="rejected"} 1
	// walletauth_refresh_duration_seconds_count{error_type="session_over",walletauth_refresh_reason="rejected"} 1
	// walletauth_refresh_held_total 0
	// walletauth_refreshes_total{walletauth_refresh_reason="rejected"} 1
	// walletauth_refreshes_total{error_type="session_over",walletauth_refresh_reason="rejected"} 1
	// walletauth_request_replayed_total 1
	// walletauth_session_adopted_total 0
	// walletauth_session_over_total 1
	// walletauth_session_saved_later_total 0
	// walletauth_session_unsaved_total 0
}

// printCounts prints what a page of metrics has of this package, without the
// times, which differ from run to run.
func printCounts(page http.Handler) {
	answer := httptest.NewRecorder()
	page.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "walletauth_") && !strings.Contains(line, "_bucket{") && !strings.Contains(line, "_sum{") {
			fmt.Println(line)
		}
	}
}
