module github.com/walletauth/walletauth

go 1.26
