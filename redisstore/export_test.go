package redisstore

import "github.com/walletauth/walletauth/internal/remote"

// ServerOf is what s asks, for tests of its scripts.
func ServerOf(s *Store) remote.Server { return s.server() }
