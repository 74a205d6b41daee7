// Command walletauth keeps a WalletKit session for the terminal and for programs
// in any language: log in once, then get a token, send a request, or run a
// program behind an address that adds the token.
//
// Its README has the verbs, the exit codes and what is protected.
package main

import "os"

func main() {
	os.Exit(newApp(os.Stdin, os.Stdout, os.Stderr).run(os.Args[1:]))
}
