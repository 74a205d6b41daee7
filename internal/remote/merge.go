package remote

import "github.com/walletauth/walletauth"

// sameLogin reports whether a and b are states of one login, of which a refresh
// makes the one from the other. An API may give a new id with each.
func sameLogin(a, b *walletauth.Session) bool {
	if a == nil || b == nil {
		return false
	}
	return a.ID == b.ID || a.UserID == b.UserID && a.CreatedAt.Equal(b.CreatedAt)
}

// expiresLater reports whether a was issued after b, where both are states of
// one login. An API that answers a repeated refresh token issues two successors,
// and it is the later one that goes on.
func expiresLater(a, b *walletauth.Session) bool {
	return a.AccessTokenExpiresAt.After(b.AccessTokenExpiresAt)
}

// supersedes reports whether a, obtained under the fence of a, is to replace b.
// Another login or a logout is never replaced without asking whoever obtained a:
// it was acknowledged to somebody.
func supersedes(a *walletauth.Session, fenceA int64, b *walletauth.Session, fenceB int64) bool {
	if !sameLogin(a, b) || expiresLater(b, a) {
		return false
	}
	return expiresLater(a, b) || fenceA > fenceB
}
