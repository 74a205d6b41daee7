module github.com/walletauth/walletauth/examples/fleet

go 1.26.0

require (
	github.com/redis/go-redis/v9 v9.23.0
	github.com/walletauth/walletauth v0.0.0
	github.com/walletauth/walletauth/filestore v0.0.0
	github.com/walletauth/walletauth/redisstore v0.0.0
)

require (
	github.com/benbjohnson/clock v1.3.5 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/gofrs/flock v0.13.1 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace (
	github.com/walletauth/walletauth => ../../
	github.com/walletauth/walletauth/filestore => ../../filestore
	github.com/walletauth/walletauth/redisstore => ../../redisstore
)
