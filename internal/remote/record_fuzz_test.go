package remote

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/walletauth/walletauth"
)

// Whatever a server holds of a key is a whole session or an error, which logs
// nobody out and shows nothing of it; and what is read is what is there now,
// not what was there before.
func FuzzRecord(f *testing.F) {
	sealed, err := walletauth.NewSealedCodec(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	codecs := []walletauth.Codec{walletauth.JSONCodec{}, sealed}
	for _, codec := range codecs {
		first, _ := codec.Encode("alice", session(1))
		second, _ := codec.Encode("alice", session(2))
		f.Add("alice", first, second)
		f.Add("bob", first, second[:len(second)/2])
		f.Add("alice", []byte(nil), second)
		f.Add("alice", first, []byte(nil))
	}
	f.Add("", []byte("null"), []byte(`{"id":1}`))
	f.Fuzz(func(t *testing.T, key string, first, second []byte) {
		for _, codec := range codecs {
			checkRecords(t, codec, key, Record{newStamp(), 1, first}, Record{newStamp(), 2, second})
			checkRecords(t, codec, key, Record{Data: first}, Record{Data: second})
		}
	})
}

func checkRecords(t *testing.T, codec walletauth.Codec, key string, records ...Record) {
	server := &memory{deaf: true}
	s := New(Config{Name: "test", Server: server, Codec: codec, MaxCopies: 2, MaxInFlight: 1})
	defer s.Close()
	for _, record := range records {
		err := server.call("Put", key, func(r *row) { r.Record = record })
		if err != nil {
			t.Fatal(err)
		}
		s.cache.doubt(key) // so that the server is asked
		got, err := s.Load(t.Context(), key)
		checkRead(t, codec, key, record.Data, got, err)
		err = s.Update(t.Context(), key, func(_ context.Context, current *walletauth.Session) (*walletauth.Session, error) {
			if got == nil && current != nil || got != nil && *current != *got {
				t.Errorf("Update sees %v, Load saw %v", current, got)
			}
			return current, nil
		})
		if err != nil && got != nil {
			t.Errorf("Update fails where Load does not: %v", err)
		}
		if got == nil && record.Data != nil && !errors.Is(err, walletauth.ErrUnreadable) {
			t.Errorf("Update of %q: %v", record.Data, err)
		}
	}
}

// checkRead fails unless got and err are what data is to give.
func checkRead(t *testing.T, codec walletauth.Codec, key string, data []byte, got *walletauth.Session, err error) {
	want, wantErr := codec.Decode(key, data)
	switch {
	case data == nil:
		if !errors.Is(err, walletauth.ErrNoSession) {
			t.Errorf("no record is %v, %v", got, err)
		}
	case wantErr != nil:
		if got != nil || !errors.Is(err, walletauth.ErrUnreadable) || errors.Is(err, walletauth.ErrNoSession) || !strings.HasSuffix(err.Error(), wantErr.Error()) {
			t.Errorf("%q is %v, %v", data, got, err)
		}
		if !harmless.MatchString(wantErr.Error()) {
			t.Errorf("an error of unknown words: %v", wantErr)
		}
	case err != nil || *got != *want:
		t.Errorf("%q is %v, %v", data, got, err)
	}
}

// harmless is what the codecs say of data that they cannot read: words of their
// own, the names of fields, and of what is sealed its version, sizes and key id.
var harmless = regexp.MustCompile(`^walletauth: (decode session: the session[a-z0-9_' ]*( RFC 3339 time| JSON| JSON object)?|open sealed session: (it |version |the key with id )[a-zA-Z0-9 ,:;]*)$`)
