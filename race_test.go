//go:build race

package walletauth_test

const raceDetector = true
