//go:build race

package simulation

// RaceDetector reports whether the race detector is on, which makes tests ten times
// slower.
const RaceDetector = true
