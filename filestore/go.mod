module github.com/walletauth/walletauth/filestore

go 1.26.0

require (
	github.com/gofrs/flock v0.13.1
	github.com/walletauth/walletauth v0.0.0-00010101000000-000000000000
	golang.org/x/sys v0.49.0
)

require (
	github.com/benbjohnson/clock v1.3.5 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
)

replace github.com/walletauth/walletauth => ../
