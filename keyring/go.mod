module github.com/walletauth/walletauth/keyring

go 1.26.0

require (
	github.com/godbus/dbus/v5 v5.2.2
	github.com/gofrs/flock v0.13.1
	github.com/walletauth/walletauth v0.0.0-00010101000000-000000000000
	github.com/walletauth/walletauth/filestore v0.0.0-00010101000000-000000000000
	github.com/zalando/go-keyring v0.2.8
)

require (
	github.com/benbjohnson/clock v1.3.5 // indirect
	github.com/danieljoos/wincred v1.2.3 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace (
	github.com/walletauth/walletauth => ../
	github.com/walletauth/walletauth/filestore => ../filestore
)
