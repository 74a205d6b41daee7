package recipes

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/pgxstore"
	"github.com/walletauth/walletauth/redisstore"
)

// inRedis shares sessions by Redis.
func inRedis(client redis.UniversalClient, sealingKey []byte) (*redisstore.Store, error) {
	codec, err := walletauth.NewSealedCodec(sealingKey) // 32 random bytes, the same on all machines
	if err != nil {
		return nil, err
	}
	return &redisstore.Store{Client: client, Codec: codec}, nil
}

// inPostgres shares sessions by PostgreSQL.
func inPostgres(ctx context.Context, pool *pgxpool.Pool, sealingKey []byte) (*pgxstore.Store, error) {
	codec, err := walletauth.NewSealedCodec(sealingKey) // 32 random bytes, the same on all machines
	if err != nil {
		return nil, err
	}
	store := &pgxstore.Store{Pool: pool, Codec: codec}
	return store, store.Migrate(ctx) // makes the table if it is missing
}

// stopWorker stores what is not stored yet, after ctx has ended too, and only then
// closes the store.
func stopWorker(ctx context.Context, transport *walletauth.Transport, store io.Closer) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(transport.Shutdown(ctx), store.Close())
}

// That they work is for their own tests to say.
var _ = inPostgres

func TestWorkers(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // connects when it is used
	defer client.Close()
	store, err := inRedis(client, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if err := stopWorker(t.Context(), &walletauth.Transport{Store: store}, store); err != nil {
		t.Error(err)
	}
}
