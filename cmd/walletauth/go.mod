module github.com/walletauth/walletauth/cmd/walletauth

go 1.26.0

require (
	github.com/creack/pty v1.1.24
	github.com/rogpeppe/go-internal v1.16.0
	github.com/spf13/cobra v1.10.2
	github.com/walletauth/walletauth v0.0.0-00010101000000-000000000000
	github.com/walletauth/walletauth/filestore v0.0.0-00010101000000-000000000000
	github.com/walletauth/walletauth/keyring v0.0.0-00010101000000-000000000000
	github.com/zalando/go-keyring v0.2.8
	golang.org/x/sys v0.50.0
	golang.org/x/term v0.48.0
)

require (
	github.com/benbjohnson/clock v1.3.5 // indirect
	github.com/danieljoos/wincred v1.2.3 // indirect
	github.com/godbus/dbus/v5 v5.2.2 // indirect
	github.com/gofrs/flock v0.13.1 // indirect
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/tools v0.26.0 // indirect
)

replace (
	github.com/walletauth/walletauth => ../../
	github.com/walletauth/walletauth/filestore => ../../filestore
	github.com/walletauth/walletauth/keyring => ../../keyring
)
