package keyring

import (
	"bytes"
	"strings"
	"testing"
)

// Whatever lies in the keyring in the place of the key: it is a key that would
// be written in the same way, or an error that shows nothing of it.
func FuzzItem(f *testing.F) {
	f.Add("app", encodeKey(bytes.Repeat([]byte{7}, keySize)))
	f.Add("app", encodeKey(bytes.Repeat([]byte{7}, keySize-1)))
	f.Add("app", strings.TrimPrefix(encodeKey(make([]byte, keySize)), prefix))
	f.Add("", prefix)
	f.Add("another program", "its password")
	f.Fuzz(func(t *testing.T, service, item string) {
		key, err := decodeKey(service, item)
		if err != nil {
			_, ofNone := decodeKey(service, "")
			if key != nil || err.Error() != ofNone.Error() {
				t.Errorf("%q is %x, %v", item, key, err)
			}
			return
		}
		again, err := decodeKey(service, encodeKey(key))
		if err != nil || !bytes.Equal(key, again) || len(key) != keySize || !strings.HasPrefix(item, prefix) {
			t.Errorf("%q is a key of %d bytes, written again it is %x, %v", item, len(key), again, err)
		}
	})
}
