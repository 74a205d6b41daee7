// Command server is the recipe for a server that acts for many users. The tests
// run it, and docs/recipes.md prints it.
package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/otelwalletauth"
	"github.com/walletauth/walletauth/redisstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if err := run(ctx); err != nil {
		slog.Error("server", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	store, err := newStore(os.Getenv("REDIS_URL"), os.Getenv("SEALING_KEY"))
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	onEvent, err := observe(registry)
	if err != nil {
		return err
	}
	transport := &walletauth.Transport{
		Store:     store,
		ProjectID: "my-project",
		BaseURL:   cmp.Or(os.Getenv("WALLETKIT_URL"), walletauth.Testnet),
		OnEvent:   onEvent,
	}
	s := &server{
		transport: transport,
		client:    &http.Client{Transport: transport, Timeout: 20 * time.Second}, // longer than a lease, see below
		api:       transport.BaseURL,
	}
	listener, err := net.Listen("tcp", cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:8080"))
	if err != nil {
		return err
	}
	slog.Info("listening", "address", listener.Addr().String())
	web := &http.Server{Handler: s.handler(registry), ReadHeaderTimeout: 10 * time.Second}
	return serve(ctx, web, listener, transport, store)
}

// newStore shares the sessions by Redis, sealed by a key that all instances have.
func newStore(redisURL, sealingKey string) (*redisstore.Store, error) {
	options, err := redis.ParseURL(redisURL)
	if err != nil {
		return nil, fmt.Errorf("REDIS_URL: %w", err)
	}
	key, err := hex.DecodeString(sealingKey) // of 32 random bytes: openssl rand -hex 32
	if err != nil {
		return nil, errors.New("SEALING_KEY is not hexadecimal")
	}
	codec, err := walletauth.NewSealedCodec(key)
	if err != nil {
		return nil, fmt.Errorf("SEALING_KEY: %w", err)
	}
	return &redisstore.Store{Client: redis.NewClient(options), Codec: codec}, nil
}

// serve serves until ctx ends. Then it stops in this order: requests are finished
// first, since they may cause a refresh; then what was refreshed is stored; the
// store is closed last. Each step has a time of its own.
func serve(ctx context.Context, web *http.Server, listener net.Listener, transport *walletauth.Transport, store io.Closer) error {
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	return errors.Join(err,
		within(20*time.Second, web.Shutdown),
		within(10*time.Second, transport.Shutdown),
		store.Close())
}

func within(d time.Duration, stop func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return stop(ctx)
}

// observe returns an OnEvent that counts for Prometheus and logs.
func observe(registry *prometheus.Registry) (func(context.Context, walletauth.Event), error) {
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
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
