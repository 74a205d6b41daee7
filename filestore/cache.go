package filestore

import (
	"io/fs"
	"os"
	"sync"

	"github.com/walletauth/walletauth"
)

const (
	// maxCache bounds the memory of the cache: some 13,000 sessions of 2 KiB.
	maxCache = 32 << 20
	// entryOverhead is what an entry takes beside the strings of its session,
	// which are no longer than the file, and its key: the Session, the file's
	// identity and its name, and their places in the map.
	entryOverhead = 512
)

// cache holds the sessions that were read or written last. The zero value is
// empty.
type cache struct {
	mu      sync.RWMutex // guards all below
	entries map[string]cached
	size    int64 // of all entries
}

// cached is a session and the file it was read from.
type cached struct {
	file    fs.FileInfo
	session *walletauth.Session
}

func (c cached) size(key string) int64 {
	return entryOverhead + int64(len(key)) + c.file.Size()
}

// get returns the session of key if file is the one it was read from. That no
// other session ever has the same identity is folder.stamp's doing. The mode is
// compared so that a file opened to others is noticed at once.
func (c *cache) get(key string, file fs.FileInfo) *walletauth.Session {
	c.mu.RLock()
	e, ok := c.entries[key]
	c.mu.RUnlock()
	if ok && file.ModTime().Equal(e.file.ModTime()) && file.Size() == e.file.Size() &&
		file.Mode() == e.file.Mode() && os.SameFile(file, e.file) {
		return e.session
	}
	return nil
}

// put keeps e for key. Which sessions make room is left to chance: of users in
// turn, the worst order, as many stay as fit, where the oldest first would keep
// none.
func (c *cache) put(key string, e cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(key)
	for victim := range c.entries {
		if c.size+e.size(key) <= maxCache {
			break
		}
		c.remove(victim)
	}
	if c.entries == nil {
		c.entries = make(map[string]cached)
	}
	c.entries[key] = e
	c.size += e.size(key)
}

func (c *cache) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(key)
}

func (c *cache) remove(key string) {
	if e, ok := c.entries[key]; ok {
		c.size -= e.size(key)
		delete(c.entries, key)
	}
}
