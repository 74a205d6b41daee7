//go:build linux || darwin

package walletauthtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

func TestFolderStoreWorksBetweenProcesses(t *testing.T) {
	t.Parallel()
	TestProcesses(t, tempDir, func(_ *testing.T, dir string) walletauth.TokenStore { return &folderStore{dir: dir} })
}

func tempDir(t *testing.T) string { return t.TempDir() }

// Its workers inherit the variable and are told apart by their own.
func TestProcessesFindsWrongStores(t *testing.T) {
	if name, ok := os.LookupEnv(wrongStoreEnv); ok { // this is the other process, or one of its workers
		testWrongStoreBetweenProcesses(t, name)
		return
	}
	t.Parallel()
	for _, wrong := range []struct{ name, fails, says string }{
		{"unlocked", "no_Update_is_lost", "while fn runs, no other Update of that key runs, in this process or in any other"},
		{"forgetful", "an_Update_is_seen_by_others", "an Update in one process is seen by all others"},
		{"late", "an_Update_is_seen_by_others", "a local copy is trusted for at most 5 seconds"},
	} {
		t.Run(wrong.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProcessesFindsWrongStores$", "-test.v", "-test.short")
			cmd.Env = append(os.Environ(), wrongStoreEnv+"="+wrong.name, noRaceSleep)
			out, err := cmd.CombinedOutput()
			if _, failed := errors.AsType[*exec.ExitError](err); !failed {
				t.Errorf("the suite should fail: %v", err)
			}
			for _, want := range []string{"--- FAIL: TestProcessesFindsWrongStores/" + wrong.fails + " (", wrong.says} {
				if !strings.Contains(string(out), want) {
					t.Errorf("the output lacks %q:\n%s", want, out)
				}
			}
		})
	}
}

func testWrongStoreBetweenProcesses(t *testing.T, name string) {
	TestProcesses(t, tempDir, func(_ *testing.T, dir string) walletauth.TokenStore {
		switch name {
		case "forgetful":
			return new(walletauth.MemoryStore)
		case "late":
			return &lateStore{folderStore: folderStore{dir: dir}}
		}
		return &folderStore{dir: dir, unlocked: true}
	})
}

// folderStore is the smallest store between processes: a file for each session,
// and one for the lock.
type folderStore struct {
	dir      string
	unlocked bool
}

func (st *folderStore) path(key string) string {
	return filepath.Join(st.dir, fmt.Sprintf("%x.json", key))
}

func (st *folderStore) Load(_ context.Context, key string) (*walletauth.Session, error) {
	data, err := os.ReadFile(st.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, walletauth.ErrNoSession
	}
	if err != nil {
		return nil, err
	}
	var s walletauth.Session
	return &s, json.Unmarshal(data, &s)
}

func (st *folderStore) Update(ctx context.Context, key string, fn updateFunc) error {
	lock, err := os.OpenFile(filepath.Join(st.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if !st.unlocked {
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
			return err
		}
	}
	current, err := st.Load(ctx, key)
	if err != nil && !errors.Is(err, walletauth.ErrNoSession) {
		return err
	}
	next, err := fn(ctx, current)
	if err != nil || next == current {
		return err
	}
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	beside := filepath.Join(st.dir, fmt.Sprintf("%x.%d.tmp", key, os.Getpid()))
	if err := os.WriteFile(beside, data, 0o600); err != nil {
		return err
	}
	return os.Rename(beside, st.path(key))
}

// lateStore asks for a session once in 8 seconds.
type lateStore struct {
	folderStore
	asked map[string]time.Time
	found map[string]error // nil: there is a session
}

func (st *lateStore) Load(ctx context.Context, key string) (*walletauth.Session, error) {
	if at, ok := st.asked[key]; ok && time.Since(at) < 8*time.Second && st.found[key] != nil {
		return nil, st.found[key]
	}
	if st.asked == nil {
		st.asked, st.found = make(map[string]time.Time), make(map[string]error)
	}
	s, err := st.folderStore.Load(ctx, key)
	st.asked[key], st.found[key] = time.Now(), err
	return s, err
}
