package pgxstore

import (
	"bytes"
	"encoding/hex"
	"strconv"
	"strings"
	"testing"

	"github.com/walletauth/walletauth/internal/remote"
)

// Whatever the columns of a row hold, a record is the data that stands there,
// and a stamp that is whole or none.
func FuzzRow(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte(`{"id":"1"}`), int64(1))
	f.Add([]byte(nil), []byte(nil), int64(7))
	f.Add([]byte("0123456789abcde"), []byte{}, int64(-1))
	f.Add([]byte("0123456789abcdef0"), []byte("restored by hand"), int64(0))
	f.Fuzz(func(t *testing.T, stamp, data []byte, fence int64) {
		var g remote.Grant
		err := scan(func(to ...any) error {
			*to[0].(*int64), *to[1].(*[]byte), *to[2].(*int64), *to[3].(*[]byte) = fence, stamp, -fence, data
			return nil
		}, &g.Record, &g.LeaseFence)
		if err != nil || g.LeaseFence != fence || g.Fence != -fence || !bytes.Equal(g.Data, data) || (g.Data == nil) != (data == nil) {
			t.Errorf("a row with %d and %q is %v, %v", fence, data, g, err)
		}
		whole := bytes.Equal(g.Stamp[:], stamp)
		if !whole && (g.Stamp != remote.Stamp{} || len(stamp) == len(g.Stamp)) {
			t.Errorf("the stamp %q became %q", stamp, g.Stamp)
		}
	})
}

// Whatever the payload of a notification: what is taken for an announcement is
// of the hash and the fence that stand in it. Of a kind that is not known it may
// be too: the key is read again then, which does no harm.
func FuzzAnnouncement(f *testing.F) {
	id := (&server{}).ID("user")
	f.Add(announcement(id, 7, false))
	f.Add(announcement(id, 1<<60, true))
	f.Add("")
	f.Add("r" + hex.EncodeToString(make([]byte, 31)) + ":1")
	f.Add("é" + hex.EncodeToString(make([]byte, 32)) + ":-1")
	f.Fuzz(func(t *testing.T, text string) {
		m, ok := readAnnouncement(text)
		if !ok {
			return
		}
		head, fence, _ := strings.Cut(announcement(m.ID, m.Fence, m.Deleted), ":")
		said, number, _ := strings.Cut(text, ":")
		if !strings.EqualFold(head[1:], said[1:]) || m.Deleted != (text[0] == 'd') || m.Echo != "" {
			t.Errorf("%q is read as %q", text, head)
		}
		if n, err := strconv.ParseInt(number, 10, 64); err != nil || n != m.Fence {
			t.Errorf("the fence of %q is read as %s", text, fence)
		}
	})
}
