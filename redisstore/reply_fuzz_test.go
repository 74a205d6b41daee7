package redisstore

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	"github.com/walletauth/walletauth/internal/remote"
)

// Whatever shape the reply of a script has: a lease counts as granted only with
// a fence and a whole record, and what is no record is an error, without any of
// the reply in it.
func FuzzScriptReply(f *testing.F) {
	stamp := []byte("0123456789abcdef")
	f.Add("isfd", int64(1), stamp, []byte(`{"id":"1"}`))
	f.Add("innn", int64(7), []byte(nil), []byte(nil))
	f.Add("i", int64(0), []byte(nil), []byte(nil))
	f.Add("", int64(0), []byte(nil), []byte(nil))
	f.Add("nsfd", int64(1), stamp, []byte("x"))
	f.Add("isfdd", int64(-1), stamp[:15], []byte("x"))
	f.Add("innd", int64(2), stamp, []byte("restored by hand"))
	f.Fuzz(func(t *testing.T, shape string, number int64, stamp, data []byte) {
		reply := replyOf(shape, number, stamp, data)
		g, granted, err := grant(reply)
		if granted && (err != nil || g.LeaseFence <= 0 || len(reply) != 4) {
			t.Errorf("%q is granted: %v, %v", reply, g, err)
		}
		if granted {
			checkRecord(t, g.Record, reply[1:])
		}
		if r, err := record(reply); err == nil {
			checkRecord(t, r, reply)
		} else if r.Data != nil || len(data) > 7 && bytes.Contains([]byte(err.Error()), data) {
			t.Errorf("%q is %v with the error %v", reply, r, err)
		}
	})
}

// replyOf makes a value of each letter: a number, the stamp, its fence, the
// data, or nil.
func replyOf(shape string, number int64, stamp, data []byte) []any {
	reply := make([]any, 0, len(shape))
	for _, kind := range shape {
		switch kind {
		case 'i':
			reply = append(reply, number)
		case 's':
			reply = append(reply, string(stamp))
		case 'f':
			reply = append(reply, strconv.FormatInt(number, 10))
		case 'd':
			reply = append(reply, string(data))
		default:
			reply = append(reply, nil)
		}
	}
	return reply
}

// checkRecord fails unless r is what the reply says. A stamp of another length
// is none.
func checkRecord(t *testing.T, r remote.Record, reply []any) {
	stamp, _ := reply[0].(string)
	fence, _ := reply[1].(string)
	data, isThere := reply[2].(string)
	if isThere != (r.Data != nil) || string(r.Data) != data || !isThere && reply[2] != nil {
		t.Errorf("%q holds the data %q", reply, r.Data)
	}
	if n, err := strconv.ParseInt(fence, 10, 64); err == nil && n != r.Fence || err != nil && r.Fence != 0 {
		t.Errorf("%q has the fence %d", reply, r.Fence)
	}
	if len(stamp) != len(r.Stamp) {
		stamp = string(make([]byte, len(r.Stamp)))
	}
	if stamp != string(r.Stamp[:]) {
		t.Errorf("%q holds the stamp %q", reply, r.Stamp)
	}
}

// Whatever is published on the channel: what is taken for an announcement is of
// the key and the fence that stand in it. Of a kind that is not known it may be
// too: the key is read again then, which does no harm.
func FuzzAnnouncement(f *testing.F) {
	f.Add(announcement("user", false) + "7")
	f.Add(announcement("u", true) + "1234567890123456789")
	f.Add("")
	f.Add("r:1")
	f.Add("xuser:-5")
	f.Fuzz(func(t *testing.T, text string) {
		m, ok := readAnnouncement(text)
		if !ok {
			return
		}
		again := announcement(m.ID, m.Deleted)
		head, fence, _ := strings.Cut(text, ":")
		if again[1:] != head[1:]+":" || m.Deleted != (text[0] == 'd') || m.Echo != "" {
			t.Errorf("%q is read as %q", text, again)
		}
		if n, err := strconv.ParseInt(fence, 10, 64); err != nil || n != m.Fence {
			t.Errorf("the fence of %q is read as %d", text, m.Fence)
		}
	})
}
