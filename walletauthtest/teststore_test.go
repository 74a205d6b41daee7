package walletauthtest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/walletauth/walletauth"
)

// TestMain has more tests run at once than there are processors: they mostly wait,
// for what a store must not do.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	m.Run()
}

func TestMemoryStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	TestStore(t, func(*testing.T) walletauth.TokenStore { return new(walletauth.MemoryStore) })
}

func TestFuncStoreKeepsTheContract(t *testing.T) {
	t.Parallel()
	TestStore(t, func(*testing.T) walletauth.TokenStore {
		var table walletauth.MemoryStore
		return &walletauth.FuncStore{
			LoadFunc: table.Load,
			SaveFunc: func(ctx context.Context, key string, s *walletauth.Session) error {
				return table.Update(ctx, key, become(s))
			},
		}
	})
}

func TestStoresThatAreOddButRightPass(t *testing.T) {
	t.Parallel()
	for name, store := range map[string]func() walletauth.TokenStore{
		"wraps ErrNoSession":                func() walletauth.TokenStore { return &wrappingStore{} },
		"returns a new copy from each Load": func() walletauth.TokenStore { return &copyingStore{} },
		"turns a panic of fn into an error": func() walletauth.TokenStore { return &recoveringStore{} },
		"calls fn again with what it found": func() walletauth.TokenStore { return &guessingStore{} },
		"has unreadable sessions":           func() walletauth.TokenStore { return &replacing{} },
		"is a wrapper without Replace":      func() walletauth.TokenStore { return wrapper{new(walletauth.MemoryStore)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			TestStore(t, func(*testing.T) walletauth.TokenStore { return store() })
		})
	}
}

type wrappingStore struct{ walletauth.MemoryStore }

func (st *wrappingStore) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	s, err := st.MemoryStore.Load(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("wrapping store: %w", err)
	}
	return s, nil
}

type copyingStore struct{ walletauth.MemoryStore }

func (st *copyingStore) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	s, err := st.MemoryStore.Load(ctx, key)
	if err != nil {
		return nil, err
	}
	own := *s
	return &own, nil
}

type recoveringStore struct{ walletauth.MemoryStore }

func (st *recoveringStore) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.MemoryStore.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (_ *walletauth.Session, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("fn panicked: %v", p)
			}
		}()
		return fn(ctx, s)
	})
}

// guessingStore begins with the session that it knew last, and calls fn again
// if that turns out not to be the one that is stored.
type guessingStore struct {
	walletauth.MemoryStore
	known sync.Map
}

func (st *guessingStore) Update(ctx context.Context, key string, fn updateFunc) error {
	return st.MemoryStore.Update(ctx, key, func(ctx context.Context, s *walletauth.Session) (*walletauth.Session, error) {
		guess, _ := st.known.Swap(key, s)
		if guess, ok := guess.(*walletauth.Session); ok && guess != s {
			_, _ = fn(ctx, guess) // it is not what fn returns in the end
		}
		return fn(ctx, s)
	})
}

// wrapper hides all but the methods of a TokenStore.
type wrapper struct{ walletauth.TokenStore }

func TestStoresWithoutAnAbilityAreToldWhatWasNotChecked(t *testing.T) {
	t.Parallel()
	const kept, none = "has unreadable sessions", "is a wrapper without Replace"
	for name, want := range map[string]int{kept: 0, none: 2} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v",
			"-test.run=^TestStoresThatAreOddButRightPass$/^"+strings.ReplaceAll(name, " ", "_")+"$")
		cmd.Env = append(os.Environ(), noRaceSleep)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		skipped := strings.Count(string(out), "--- SKIP: ")
		told := strings.Count(string(out), " is no walletauth.Replacer, which is optional") +
			strings.Count(string(out), " is no walletauthtest.Corrupter: ")
		if skipped != want || told != want {
			t.Errorf("%s: %d subtests skipped and %d times told why, want %d\n%s", name, skipped, told, want, out)
		}
	}
}

// A *testing.T cannot be faked, so every wrong store is tested by another
// process, whose failure is what is wanted.
func TestSuiteFindsWrongStores(t *testing.T) {
	if name, ok := os.LookupEnv(wrongStoreEnv); ok { // this is the other process
		testWrongStore(t, name)
		return
	}
	t.Parallel()
	for _, wrong := range wrongStores {
		t.Run(wrong.name, func(t *testing.T) {
			t.Parallel()
			out := runWrongStore(t, wrong.name)
			got := failedChecks(out)
			for _, name := range wrong.mayFail {
				got = slices.DeleteFunc(got, func(failed string) bool { return failed == name })
			}
			if diff := cmp.Diff(slices.Sorted(slices.Values(wrong.fails)), got); diff != "" {
				t.Errorf("not those subtests fail that should (-want +got):\n%s\n%s", diff, out)
			}
			for _, c := range storeChecks {
				if slices.Contains(wrong.fails, c.name) && !strings.Contains(out, "the rule is: "+c.rule) {
					t.Errorf("%s: the failure does not name the rule %q", c.name, c.rule)
				}
			}
		})
	}
}

const wrongStoreEnv = "WALLETAUTHTEST_WRONG_STORE"

func runWrongStore(t *testing.T, name string) string {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSuiteFindsWrongStores$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), wrongStoreEnv+"="+name, noRaceSleep)
	out, err := cmd.CombinedOutput()
	if _, failed := errors.AsType[*exec.ExitError](err); !failed {
		t.Errorf("the suite should fail: %v", err)
	}
	return string(out)
}

func testWrongStore(t *testing.T, name string) {
	for _, wrong := range wrongStores {
		if wrong.name == name {
			testStore(t, func(*testing.T) walletauth.TokenStore { return wrong.store() }, 3*time.Second)
		}
	}
}

// failedChecks returns the names of the checks that failed, sorted. Package
// testing prints underscores for spaces.
func failedChecks(out string) []string {
	var failed []string
	for _, c := range storeChecks {
		if strings.Contains(out, "--- FAIL: TestSuiteFindsWrongStores/"+strings.ReplaceAll(c.name, " ", "_")+" (") {
			failed = append(failed, c.name)
		}
	}
	slices.Sort(failed)
	return failed
}

func TestChecksAreNamedOnce(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range storeChecks {
		if seen[c.name] {
			t.Errorf("two checks are called %q", c.name)
		}
		seen[c.name] = true
	}
}

func TestOddKeysDiffer(t *testing.T) {
	seen := make(map[string]bool)
	for _, key := range oddKeys {
		if seen[key] {
			t.Errorf("%.40q is there twice", key)
		}
		seen[key] = true
	}
}
