package filestore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
	"github.com/walletauth/walletauth/walletauthtest"
)

func sealed(t testing.TB) walletauth.Codec {
	t.Helper()
	c, err := walletauth.NewSealedCodec(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStoreKeepsTheContract(t *testing.T) {
	for name, codec := range map[string]walletauth.Codec{"in clear": nil, "sealed": sealed(t)} {
		t.Run(name, func(t *testing.T) {
			walletauthtest.TestStore(t, func(t *testing.T) walletauth.TokenStore {
				return corruptible{&filestore.Store{Dir: t.TempDir(), Codec: codec}}
			})
		})
	}
}

// corruptible is a Store whose files can be damaged.
type corruptible struct{ *filestore.Store }

func (c corruptible) Corrupt(t testing.TB, key string) {
	t.Helper()
	sum := sha256.Sum256([]byte(key))
	file := filepath.Join(c.Dir, hex.EncodeToString(sum[:])+".session")
	info, err := os.Lstat(file)
	must(t, err)
	must(t, os.Truncate(file, info.Size()-1))
}

// Two Stores over one folder are as two processes: nothing in memory is shared.
func TestTwoStoresOverOneFolderExclude(t *testing.T) {
	dir := private(t)
	var all sync.WaitGroup
	for range 4 {
		st := &filestore.Store{Dir: dir}
		all.Go(func() {
			for range 10 {
				err := st.Update(t.Context(), "k", func(_ context.Context, s *walletauth.Session) (*walletauth.Session, error) {
					return session(number(t, s) + 1), nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got := load(t, &filestore.Store{Dir: dir}, "k"); got != 40 {
		t.Errorf("%d updates were counted, want 40", got)
	}
}

var oddKeys = map[string]string{
	"empty":                   "",
	"a dot":                   ".",
	"two dots":                "..",
	"a way out of the folder": "../../etc/passwd",
	"slashes":                 "/a/b\\c//",
	"a trailing dot":          "alice.",
	"a trailing space":        "alice ",
	"lower case":              "alice",
	"upper case":              "ALICE",
	"composed":                "\u00e9",
	"decomposed":              "e\u0301",
	"10,000 bytes":            strings.Repeat("k", 10_000),
	"not UTF-8":               "\xff\xfe",
	"NUL":                     "a\x00b",
	"a line break":            "a\nb",
	"reserved on Windows":     "CON",
	"reserved with extension": "nul.txt",
	"a stream on NTFS":        "file:stream",
	"a glob":                  "*",
}

func TestAnyStringIsAKeyOfItsOwn(t *testing.T) {
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	want := map[string]int{}
	for _, key := range oddKeys {
		want[key] = len(want) + 1
		save(t, st, key, want[key])
	}
	fresh := &filestore.Store{Dir: dir}
	for name, key := range oddKeys {
		if got := load(t, fresh, key); got != want[key] {
			t.Errorf("key %s: session %d, want %d", name, got, want[key])
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2*len(oddKeys) {
		t.Errorf("%d files for %d keys, want a session and a lock each", len(files), len(oddKeys))
	}
	for _, file := range files {
		if base, _, _ := strings.Cut(file.Name(), "."); len(base) != 64 || strings.Trim(base, "0123456789abcdef") != "" {
			t.Errorf("the file name %q shows something of a key", file.Name())
		}
	}
}

func TestLoadOfNothingMakesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there")
	st := &filestore.Store{Dir: dir}
	if s, err := st.Load(t.Context(), "k"); !errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("%v, %v, want ErrNoSession", s, err)
	}
	if _, err := os.Lstat(filepath.Dir(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder was made by a Load: %v", err)
	}
	save(t, st, "k", 1)
	if got := load(t, st, "k"); got != 1 {
		t.Errorf("session %d, want 1", got)
	}
}

// configFolder is a home of the test's own.
func configFolder(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "AppData"} {
		t.Setenv(name, home)
	}
	config, err := os.UserConfigDir()
	must(t, err)
	return config
}

func TestAppIsAFolderInTheUsersConfiguration(t *testing.T) {
	config := configFolder(t)
	for app, dir := range map[string]string{
		"my-tool": "my-tool", "my-tool-testnet": "my-tool-testnet", "org/tool/sessions": filepath.Join("org", "tool", "sessions"), ".tool": ".tool",
	} {
		save(t, &filestore.Store{App: app}, "k", 1)
		if got := load(t, &filestore.Store{Dir: filepath.Join(config, dir)}, "k"); got != 1 {
			t.Errorf("App %q: session %d, want 1", app, got)
		}
	}
	if s, err := (&filestore.Store{App: "another"}).Load(t.Context(), "k"); !errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("another App shares the session: %v, %v", s, err)
	}
}

func TestDirComesBeforeApp(t *testing.T) {
	config, dir := configFolder(t), private(t)
	save(t, &filestore.Store{App: "my-tool", Dir: dir}, "k", 1)
	if got := load(t, &filestore.Store{Dir: dir}, "k"); got != 1 {
		t.Errorf("session %d, want 1", got)
	}
	if _, err := os.Lstat(filepath.Join(config, "my-tool")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of App was made: %v", err)
	}
}

func TestStoreWithoutAFolderIsAnError(t *testing.T) {
	configFolder(t)
	const neither = "neither Store.App nor Store.Dir is set: set App to the name of your program"
	for app, want := range map[string]string{
		"": neither, ".": "Store.App is", "..": "Store.App is", "../other": "Store.App is", "/etc": "Store.App is", "a//b": "Store.App is",
		"a/": "Store.App is", `a\b`: "Store.App is", "C:tool": "Store.App is", "a\nb": "Store.App is", "what?": "Store.App is",
	} {
		st := &filestore.Store{App: app}
		_, loadErr := st.Load(t.Context(), "k")
		for _, err := range []error{loadErr, st.Update(t.Context(), "k", put(1)), st.Replace(t.Context(), "k", session(1))} {
			if err == nil || errors.Is(err, walletauth.ErrNoSession) || errors.Is(err, walletauth.ErrUnreadable) || !strings.Contains(err.Error(), want) {
				t.Errorf("App %q: error %v, want one that says %q", app, err, want)
			}
		}
	}
}

func TestRelativeDirIsResolvedOnce(t *testing.T) {
	t.Chdir(t.TempDir())
	st := &filestore.Store{Dir: "sessions"}
	save(t, st, "k", 1)
	t.Chdir(t.TempDir())
	if got := load(t, st, "k"); got != 1 {
		t.Errorf("session %d, want 1", got)
	}
}

// The proof that nothing is read: what is in the file is made unreadable
// behind the store's back, its identity kept.
func TestLoadReadsNothingWhileTheFileIsTheSame(t *testing.T) {
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	save(t, st, "k", 1)
	first, err := st.Load(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	path := only(t, dir, ".session")
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, info.Size()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	second, err := st.Load(t.Context(), "k")
	if err != nil {
		t.Fatalf("the file was read: %v", err)
	}
	if first != second {
		t.Error("the session is the same and its pointer is not")
	}
	if _, err := (&filestore.Store{Dir: dir}).Load(t.Context(), "k"); err == nil {
		t.Error("a Store that had to read it found nothing wrong: the test proves nothing")
	}
}

// Sessions of one size, stored faster than the kernel's clock ticks, in files
// whose inode was just given back: nothing the file system says of its own
// accord tells them apart. The other Store must all the same.
func TestLoadTellsSessionsApartThatLookAlike(t *testing.T) {
	dir := private(t)
	writer, reader := &filestore.Store{Dir: dir}, &filestore.Store{Dir: dir}
	count := 1500
	if testing.Short() {
		count = 150
	}
	for n := 1; n <= count; n++ {
		save(t, writer, "k", n)
		if got := load(t, reader, "k"); got != n {
			t.Fatalf("session %d was stored, %d loaded", n, got)
		}
	}
}

// A clock that was set back must not make a new session look like an old one.
func TestModificationTimeOnlyGrows(t *testing.T) {
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	save(t, st, "k", 1)
	path := only(t, dir, ".session")
	ahead := time.Now().Add(time.Hour).Truncate(time.Second)
	if err := os.Chtimes(path, ahead, ahead); err != nil {
		t.Fatal(err)
	}
	for n := 2; n <= 4; n++ {
		save(t, st, "k", n)
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := ahead.Add(time.Duration(n-1) * time.Microsecond); !info.ModTime().Equal(want) {
			t.Errorf("session %d has the time %v, want %v", n, info.ModTime(), want)
		}
	}
}

// large is session n, its file of a size in bytes.
func large(t *testing.T, n, size int) *walletauth.Session {
	t.Helper()
	dir := private(t)
	save(t, &filestore.Store{Dir: dir}, "k", n)
	info, err := os.Lstat(only(t, dir, ".session"))
	must(t, err)
	s := session(n)
	s.AccessToken += strings.Repeat("x", size-int(info.Size()))
	return s
}

const mib = 1 << 20

func TestMoreSessionsThanTheCacheHolds(t *testing.T) {
	st := &filestore.Store{Dir: private(t), Codec: wideCodec{}}
	const keys = 40 // of nearly a MiB each, and the cache has 32
	for n := range keys {
		save(t, st, fmt.Sprint(n), n)
	}
	for n := range keys {
		if got := load(t, st, fmt.Sprint(n)); got != n {
			t.Fatalf("session %d, want %d", got, n)
		}
	}
}

// wideCodec writes a session with nearly a MiB of nothing behind it.
type wideCodec struct{ walletauth.JSONCodec }

func (c wideCodec) Encode(key string, s *walletauth.Session) ([]byte, error) {
	data, err := c.JSONCodec.Encode(key, s)
	return append(append(data, 0), make([]byte, mib-4096)...), err
}

func (c wideCodec) Decode(key string, data []byte) (*walletauth.Session, error) {
	data, _, _ = bytes.Cut(data, []byte{0})
	return c.JSONCodec.Decode(key, data)
}

// What can be stored can be read back: the one limit holds for both.
func TestSessionOfMoreThanAMiBIsRefusedWhenItIsSaved(t *testing.T) {
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	save(t, st, "k", 1)
	tooLarge := large(t, 2, mib+1)
	for what, err := range map[string]error{
		"Save":    walletauth.Save(t.Context(), st, "k", tooLarge),
		"Replace": st.Replace(t.Context(), "k", tooLarge),
	} {
		if err == nil || !strings.Contains(err.Error(), "the session takes 1048577 bytes, and more than 1048576 could not be read back") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if got := load(t, &filestore.Store{Dir: dir}, "k"); got != 1 {
		t.Errorf("session %d, want the old one", got)
	}
	largest := large(t, 3, mib)
	must(t, walletauth.Save(t.Context(), st, "k", largest))
	if s, err := (&filestore.Store{Dir: dir}).Load(t.Context(), "k"); err != nil || *s != *largest {
		t.Errorf("the largest session: %v", err)
	}
}

func TestFolderThatWasReplacedIsNotReadOn(t *testing.T) {
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	save(t, st, "k", 1)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if s, err := st.Load(t.Context(), "k"); !errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("the folder is gone: %v, %v", s, err)
	}
	save(t, &filestore.Store{Dir: dir}, "k", 2)
	if got := load(t, st, "k"); got != 2 {
		t.Errorf("session %d, want 2", got)
	}
	save(t, st, "k", 3)
	if got := load(t, &filestore.Store{Dir: dir}, "k"); got != 3 {
		t.Errorf("session %d, want 3", got)
	}
}

func TestTokensInTheFileAreAsTheCodecWroteThem(t *testing.T) {
	for name, row := range map[string]struct {
		codec walletauth.Codec
		clear bool
	}{"in clear": {nil, true}, "sealed": {sealed(t), false}} {
		t.Run(name, func(t *testing.T) {
			dir := private(t)
			save(t, &filestore.Store{Dir: dir, Codec: row.codec}, "alice", 1)
			data, err := os.ReadFile(only(t, dir, ".session"))
			if err != nil {
				t.Fatal(err)
			}
			if got := bytes.Contains(data, []byte("-secret-")); got != row.clear {
				t.Errorf("tokens in clear: %v, want %v", got, row.clear)
			}
			if bytes.Contains(data, []byte("alice")) {
				t.Error("the file names its key")
			}
			sum := sha256.Sum256([]byte("alice"))
			if want := "walletauth session 1 " + hex.EncodeToString(sum[:]) + "\n"; !bytes.HasPrefix(data, []byte(want)) {
				t.Errorf("the file does not begin with %q", want)
			}
		})
	}
}

func TestDeleteLeavesNoToken(t *testing.T) {
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	save(t, st, "k", 1)
	left := strings.TrimSuffix(only(t, dir, ".session"), ".session") + ".tmp"
	if err := os.WriteFile(left, []byte("refresh-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := walletauth.Delete(t.Context(), st, "k"); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 1 || !strings.HasSuffix(files[0].Name(), ".lock") {
		t.Errorf("left over: %v, want the lock file alone", files)
	}
}

// oddCodec is wrong in one way at a time.
type oddCodec struct {
	walletauth.JSONCodec
	encode, decode error
	nothing        bool
}

func (c oddCodec) Encode(key string, s *walletauth.Session) ([]byte, error) {
	if c.encode != nil {
		return nil, c.encode
	}
	return c.JSONCodec.Encode(key, s)
}

func (c oddCodec) Decode(key string, data []byte) (*walletauth.Session, error) {
	if c.decode != nil || c.nothing {
		return nil, c.decode
	}
	return c.JSONCodec.Decode(key, data)
}

func TestBrokenCodecCostsNoSession(t *testing.T) {
	errOdd := errors.New("odd")
	for name, row := range map[string]struct {
		codec oddCodec
		is    error // what Update's error wraps
	}{
		"cannot encode":                     {oddCodec{encode: errOdd}, errOdd},
		"cannot decode what it wrote":       {oddCodec{decode: errOdd}, errOdd},
		"says there is no session":          {oddCodec{decode: walletauth.ErrNoSession}, nil},
		"returns neither session nor error": {oddCodec{nothing: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := private(t)
			save(t, &filestore.Store{Dir: dir}, "there", 1)
			broken := &filestore.Store{Dir: dir, Codec: row.codec}
			for _, key := range []string{"there", "new"} {
				err := broken.Update(t.Context(), key, put(2))
				if err == nil || errors.Is(err, walletauth.ErrNoSession) || row.is != nil && !errors.Is(err, row.is) {
					t.Errorf("key %s: error %v", key, err)
				}
			}
			sound := &filestore.Store{Dir: dir}
			if got := load(t, sound, "there"); got != 1 {
				t.Errorf("session %d, want the old one", got)
			}
			if s, err := sound.Load(t.Context(), "new"); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("something was stored: %v, %v", s, err)
			}
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	st := &filestore.Store{Dir: private(b)}
	save(b, st, "k", 1)
	b.Run("Load", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := st.Load(b.Context(), "k"); err != nil {
				b.Fatal(err)
			}
		}
	})
	path := only(b, st.Dir, ".session")
	b.Run("stat alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := os.Lstat(path); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("after a change", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := (&filestore.Store{Dir: st.Dir}).Load(b.Context(), "k"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLoadInTurn loads as many keys in turn as a server has users, which is
// the worst order for a cache.
func BenchmarkLoadInTurn(b *testing.B) {
	for _, keys := range []int{1, 1000, 2000, 10_000} {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			st := &filestore.Store{Dir: private(b)}
			all := make([]string, keys)
			for i := range all {
				all[i] = fmt.Sprintf("user-%d", i)
				save(b, st, all[i], i)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := st.Load(b.Context(), all[i%keys]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	st := &filestore.Store{Dir: private(b)}
	b.ReportAllocs()
	for b.Loop() {
		save(b, st, "k", 1)
	}
}

func TestMissingConfigurationFolderIsAnError(t *testing.T) {
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "AppData"} {
		t.Setenv(name, "")
	}
	st := &filestore.Store{App: "my-tool"}
	_, err := st.Load(t.Context(), "k")
	for _, err := range []error{err, st.Update(t.Context(), "k", put(1))} {
		if err == nil || errors.Is(err, walletauth.ErrNoSession) || !strings.Contains(err.Error(), "set Store.Dir") {
			t.Errorf("error %v, want one that says what to set", err)
		}
	}
}
