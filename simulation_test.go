package walletauth_test

import (
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/internal/simulation"
)

var seams = simulation.Seams{
	Wrap:      (*walletauth.Transport).WrapRefresher,
	Remembers: (*walletauth.Transport).Remembers,
}

// TestSimulation searches for a history that breaks a promise of the package.
func TestSimulation(t *testing.T) { seams.Search(t) }

// TestSimulationRepeats shows that a seed decides its history.
func TestSimulationRepeats(t *testing.T) { seams.Repeats(t) }

// TestSimulationFindsBugs shows that the search finds stores, refreshers and
// clients that are wrong on purpose.
func TestSimulationFindsBugs(t *testing.T) { seams.FindsBugs(t) }

// TestSimulationFindsWrongLines shows that the search finds wrong lines of the
// package.
func TestSimulationFindsWrongLines(t *testing.T) { seams.FindsWrongLines(t) }
