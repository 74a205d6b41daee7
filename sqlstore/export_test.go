package sqlstore

import "github.com/walletauth/walletauth/internal/remote"

// ServerOf is what s asks, for tests of its statements.
func ServerOf(s *Store) remote.Server { return newServer(s.DB, dialects[s.Dialect], s.Table) }
