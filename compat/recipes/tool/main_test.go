package main

import (
	"os"
	"testing"
)

// TestMain lets the tests run the program as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_AS_TOOL") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}
