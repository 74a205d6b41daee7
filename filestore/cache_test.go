package filestore

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
)

// sized is the identity of a file of n bytes.
type sized int64

func (n sized) Size() int64      { return int64(n) }
func (sized) Name() string       { return "" }
func (sized) Mode() fs.FileMode  { return 0 }
func (sized) ModTime() time.Time { return time.Time{} }
func (sized) IsDir() bool        { return false }
func (sized) Sys() any           { return nil }

// sum is what the entries of c take in truth.
func (c *cache) sum() (n int64) {
	for key, e := range c.entries {
		n += e.size(key)
	}
	return n
}

func TestCacheIsBoundedByMemory(t *testing.T) {
	for name, size := range map[string]sized{"small sessions": 700, "large sessions": 1 << 20, "keys alone": 0} {
		t.Run(name, func(t *testing.T) {
			var c cache
			each := entryOverhead + int64(size) + 5
			fit := int(maxCache / each)
			for n := range fit + 50 {
				c.put(fmt.Sprintf("%05d", n), cached{size, new(walletauth.Session)})
				if c.size > maxCache || c.size != int64(len(c.entries))*each {
					t.Fatalf("%d entries of %d bytes count as %d, at most %d", len(c.entries), each, c.size, maxCache)
				}
			}
			if len(c.entries) != fit {
				t.Errorf("%d entries, and %d fit", len(c.entries), fit)
			}
		})
	}
}

func TestCacheForgetsWhatWasReplacedOrDeleted(t *testing.T) {
	var c cache
	for n := range 100 {
		c.put(fmt.Sprint(n%7), cached{sized(n), new(walletauth.Session)})
		if n%5 == 0 {
			c.forget(fmt.Sprint(n % 3))
		}
		if c.size != c.sum() {
			t.Fatalf("after %d steps %d bytes are counted, and there are %d", n, c.size, c.sum())
		}
	}
	for n := range 7 {
		c.forget(fmt.Sprint(n))
	}
	if c.size != 0 || len(c.entries) != 0 {
		t.Errorf("%d bytes, %d entries, want none", c.size, len(c.entries))
	}
}

// The bound is one of memory only if an entry counts at least what it takes.
func TestCacheTakesNoMoreThanItCounts(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, strings.Repeat("0", 64)+".session")
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	data, err := walletauth.JSONCodec{}.Encode("", &walletauth.Session{
		ID: strings.Repeat("i", 36), CreatedAt: at, ProjectID: "project", UserID: strings.Repeat("u", 36),
		AccessToken: strings.Repeat("a", 40), AccessTokenExpiresAt: at, RefreshToken: strings.Repeat("r", 40), RefreshTokenExpiresAt: at,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var c cache
	before := heap()
	for n := range 20_000 {
		file, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		session, err := walletauth.JSONCodec{}.Decode("", data)
		if err != nil {
			t.Fatal(err)
		}
		c.put(fmt.Sprintf("user-%d", n), cached{file, session})
	}
	took := heap() - before
	t.Logf("%d entries take %d bytes each and count %d", len(c.entries), took/int64(len(c.entries)), c.size/int64(len(c.entries)))
	if took > c.size {
		t.Errorf("%d bytes are counted and %d taken", c.size, took)
	}
	runtime.KeepAlive(&c)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
