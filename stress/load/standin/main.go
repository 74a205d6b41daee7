// Command standin is the stand-in for the API as a process of its own. It logs
// sessions in, writes to its output how they and it are reached, serves until its
// input ends, and then writes what it has seen.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// Opening is what is written first.
type Opening struct {
	URL      string
	Sessions []*walletauth.Session
}

// Closing is what is written last.
type Closing struct {
	walletauthtest.Stats
	Violations []string
	Refreshed  []int // how often each of the sessions, in their order
}

func main() {
	sessions := flag.Int("sessions", 0, "how many to log in")
	ttl := flag.Duration("ttl", 5*time.Minute, "how long an access token lives")
	flag.Parse()
	if err := serve(*sessions, *ttl); err != nil {
		log.Fatal(err)
	}
}

func serve(sessions int, ttl time.Duration) error {
	srv := walletauthtest.NewServer(walletauthtest.Config{AccessTokenTTL: ttl})
	defer srv.Close()
	opening := Opening{URL: srv.URL}
	for i := range sessions {
		opening.Sessions = append(opening.Sessions, srv.Login(fmt.Sprint("user-", i)))
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(opening); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	closing := Closing{Stats: srv.Stats(), Violations: srv.Violations()}
	for _, s := range opening.Sessions {
		closing.Refreshed = append(closing.Refreshed, srv.Refreshes(s.ID))
	}
	return out.Encode(closing)
}
