module github.com/walletauth/walletauth/stress

go 1.26.0

require (
	github.com/jackc/pgx/v5 v5.12.0
	github.com/redis/go-redis/v9 v9.23.0
	github.com/walletauth/walletauth v0.0.0
	github.com/walletauth/walletauth/filestore v0.0.0
	github.com/walletauth/walletauth/pgxstore v0.0.0
	github.com/walletauth/walletauth/redisstore v0.0.0
)

require (
	github.com/benbjohnson/clock v1.3.5 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/gofrs/flock v0.13.1 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/jackc/puddle/v2 v2.2.3 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.41.0 // indirect
)

replace (
	github.com/walletauth/walletauth => ../
	github.com/walletauth/walletauth/filestore => ../filestore
	github.com/walletauth/walletauth/pgxstore => ../pgxstore
	github.com/walletauth/walletauth/redisstore => ../redisstore
)
