package policy

import (
	"io"
	"testing"
)

// wantEnd fails unless e knows this of the session with the two tokens.
func wantEnd(t *testing.T, e *End, refreshToken, accessToken string, refused, confirmed, rejected bool) {
	t.Helper()
	found := e.Find(refreshToken)
	if (found.Err() == io.EOF) != refused || (found.Err() != nil) != refused || found.IsConfirmed() != confirmed || found.Rejects(accessToken) != rejected {
		t.Errorf("%s: refused %v, confirmed %t, rejected %t; want %t, %t, %t", refreshToken, found.Err(), found.IsConfirmed(), found.Rejects(accessToken), refused, confirmed, rejected)
	}
}

func TestNothingIsKnownOfTheEndAtFirst(t *testing.T) {
	var none *End
	wantEnd(t, none, "", "", false, false, false)
	wantEnd(t, none, "refresh", "access", false, false, false)
}

func TestEndIsNotConfirmedAtFirst(t *testing.T) {
	var none *End
	e := none.Refused("refresh", "access", io.EOF)
	wantEnd(t, e, "refresh", "access", true, false, false)
	wantEnd(t, e, "another", "access", false, false, false)
	wantEnd(t, e.Confirmed("refresh", "access", false, io.EOF), "refresh", "access", true, true, false)
}

func TestEndSaysWhetherTheAccessTokenIsRefusedToo(t *testing.T) {
	var none *End
	e := none.Confirmed("refresh", "access", true, io.EOF)
	wantEnd(t, e, "refresh", "access", true, true, true)
	wantEnd(t, e, "refresh", "another", true, true, false)
	learned := none.Confirmed("refresh", "access", false, io.EOF).Confirmed("refresh", "access", true, io.EOF)
	wantEnd(t, learned, "refresh", "access", true, true, true)
}

func TestEndOfTheLoginBeforeIsKnownAndNoneEarlier(t *testing.T) {
	var e *End
	for _, token := range []string{"first", "second", "second", "third"} {
		e = e.Confirmed(token, token, true, io.EOF)
	}
	wantEnd(t, e, "third", "third", true, true, true)
	wantEnd(t, e, "second", "second", true, true, true)
	wantEnd(t, e, "first", "first", false, false, false)
	if e.earlier.earlier != nil {
		t.Error("more than two are kept")
	}
}

func TestEndIsNotChangedByWhatComesLater(t *testing.T) {
	var none *End
	first := none.Refused("refresh", "access", io.EOF)
	first.Confirmed("refresh", "access", true, io.EOF)
	first.Confirmed("another", "access", true, io.EOF)
	wantEnd(t, first, "refresh", "access", true, false, false)
	wantEnd(t, first, "another", "access", false, false, false)
}
