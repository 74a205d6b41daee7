// Bench measures walletauth beside what a user would pick instead, all in one
// run, and writes the tables and pictures of the documentation.
//
//	go run .              # everything, some minutes; changes nothing
//	go run . -quick       # a rough idea in half a minute
//	go run . -out ../docs # and write the tables and pictures there
//
// Tables and pictures can be made again from the figures of an earlier run:
//
//	go run . -from ../docs/img/bench.json -out ../docs
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
)

func main() {
	if place := os.Getenv(workerEnv); place != "" {
		exit(work(place, os.Stdin, os.Stdout))
	}
	quick := flag.Bool("quick", false, "smaller and fewer rounds, for a rough idea")
	out := flag.String("out", "", "the `folder` with performance.md and scale.md, whose tables and pictures are replaced")
	from := flag.String("from", "", "the `file` of an earlier run's figures, to show instead of measuring anew")
	only := flag.String("only", "", "the one `step` to measure; with -from, all else is shown as it was")
	flag.Parse()
	r, err := figures(*from, *only, *quick)
	if r != nil {
		err = errors.Join(err, r.show(*out))
	}
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
