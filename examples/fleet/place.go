package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/redisstore"
)

// place is where the sessions are: in a folder, or in a Redis under a prefix.
type place struct{ Folder, Redis, Prefix string }

// newPlace is one that no other run uses.
func newPlace(redisURL string) (place, error) {
	if redisURL != "" {
		return place{Redis: redisURL, Prefix: "walletauth-fleet:" + rand.Text() + ":"}, nil
	}
	folder, err := os.MkdirTemp("", "walletauth-fleet-")
	return place{Folder: folder}, err
}

// where says it to the user. A URL may hold a password and is not repeated.
func (p place) where() string {
	if p.Redis != "" {
		return "in Redis"
	}
	return "in files"
}

// open returns the store there and what closes it. cached is false for who has
// to know what is stored at this moment, and can wait for it.
func (p place) open(cached bool) (walletauth.TokenStore, func(), error) {
	if p.Redis == "" {
		return &filestore.Store{Dir: p.Folder}, func() {}, nil
	}
	options, err := redis.ParseURL(p.Redis)
	if err != nil {
		// The cause quotes the URL, and with it a password.
		return nil, nil, errors.New("-redis takes a URL such as redis://localhost:6379/0")
	}
	redis.SetLogger(silence{})
	store := &redisstore.Store{Client: redis.NewClient(options), Prefix: p.Prefix}
	if !cached {
		store.CacheFor = -1
	}
	closeBoth := func() { _, _ = store.Close(), store.Client.Close() }
	if err := reach(store.Client); err != nil {
		closeBoth()
		return nil, nil, err
	}
	return store, closeBoth, nil
}

// reach asks the server for a sign of life. Without it the first save would say
// the same, after five seconds.
func reach(client redis.UniversalClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("the Redis of -redis does not answer: %w", err)
	}
	return nil
}

// silence is for go-redis, which would log each attempt to reach a server; the
// error of the last one is what counts, and it is returned.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// clear forgets the sessions. That it fails is not worth a word: they are of a
// stand-in that is gone, in a temporary folder or where Redis drops them in time.
func (p place) clear(store walletauth.TokenStore, users []string) {
	if p.Redis == "" {
		_ = os.RemoveAll(p.Folder)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	for _, user := range users {
		_ = walletauth.Delete(ctx, store, user)
	}
}
