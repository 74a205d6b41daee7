package policy

import "crypto/sha256"

// End says that a session is over, by hashes of its tokens, since it may be kept
// for long. A nil End knows of none, and an End is immutable.
type End struct {
	refreshToken [sha256.Size]byte
	accessToken  [sha256.Size]byte
	rejected     bool // the API refuses the access token too
	confirmed    bool // and the store holds nothing newer
	err          error
	earlier      *End // of the login before: a store's copy may be that old
}

// Refused returns e with the news that the server calls a session over. Until
// that is confirmed requests go on as before, but the refresh token is not sent
// again.
func (e *End) Refused(refreshToken, accessToken string, err error) *End {
	return e.with(End{refreshToken: hash(refreshToken), accessToken: hash(accessToken), err: err})
}

// Confirmed returns e with the news that a session is over, and whether the API
// refuses its access token too.
func (e *End) Confirmed(refreshToken, accessToken string, rejected bool, err error) *End {
	return e.with(End{refreshToken: hash(refreshToken), accessToken: hash(accessToken), rejected: rejected, confirmed: true, err: err})
}

// with puts next before what is known of another refresh token.
func (e *End) with(next End) *End {
	if e != nil && e.refreshToken == next.refreshToken {
		e = e.earlier
	}
	if e != nil {
		earlier := *e
		earlier.earlier = nil
		next.earlier = &earlier
	}
	return &next
}

// Find returns what is known of the session with refreshToken, nil if nothing is.
func (e *End) Find(refreshToken string) *End {
	if e == nil {
		return nil
	}
	for h := hash(refreshToken); e != nil && e.refreshToken != h; {
		e = e.earlier
	}
	return e
}

// Err is why the server calls the session over, nil if e is nil.
func (e *End) Err() error {
	if e == nil {
		return nil
	}
	return e.err
}

// IsConfirmed reports whether the session is over for certain.
func (e *End) IsConfirmed() bool { return e != nil && e.confirmed }

// Rejects reports whether the API refuses accessToken as well.
func (e *End) Rejects(accessToken string) bool {
	return e != nil && e.rejected && e.accessToken == hash(accessToken)
}

func hash(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }
