package redisstore

import (
	"cmp"

	"github.com/walletauth/walletauth/internal/remote"
)

// ServerOf is what s asks, for tests of its scripts.
func ServerOf(s *Store) remote.Server {
	return &server{client: s.Client, prefix: cmp.Or(s.Prefix, "walletauth:")}
}
