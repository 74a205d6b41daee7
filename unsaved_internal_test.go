package walletauth

import (
	"context"
	"errors"
	"testing"
)

func TestEitherTokenMakesASessionAnother(t *testing.T) {
	s := &Session{AccessToken: "a", RefreshToken: "r"}
	for name, c := range map[string]struct {
		a, b *Session
		want bool
	}{
		"the same":              {s, &Session{ID: "new", AccessToken: "a", RefreshToken: "r"}, true},
		"none and none":         {nil, nil, true},
		"one and none":          {s, nil, false},
		"another access token":  {s, &Session{AccessToken: "b", RefreshToken: "r"}, false},
		"another refresh token": {s, &Session{AccessToken: "a", RefreshToken: "q"}, false},
	} {
		if sameTokens(c.a, c.b) != c.want || sameTokens(c.b, c.a) != c.want {
			t.Errorf("%s: not %t", name, c.want)
		}
	}
}

func TestOnlyTheFirstUnsavedChangeOfAKeyNeedsASaver(t *testing.T) {
	never := func(*Session) bool { return false }
	first, second := &unsavedSession{session: &Session{}, outdated: never}, &unsavedSession{session: &Session{}, outdated: never}
	var n unsaved
	for _, c := range []struct {
		key  string
		u    *unsavedSession
		want bool
	}{{"key", first, true}, {"key", second, false}, {"another", first, true}} {
		if n.put(c.key, c.u) != c.want {
			t.Errorf("%s: not %t", c.key, c.want)
		}
	}
	if n.drop("key", first) || !n.drop("key", second) || !n.put("key", first) {
		t.Error("what was dropped is not the last, or not gone")
	}
}

func TestAnUpdateThatTookTooLongSaysSo(t *testing.T) {
	alive := t.Context()
	left, leave := context.WithCancel(alive)
	leave()
	late, end := context.WithCancelCause(alive)
	end(context.DeadlineExceeded)
	full := errors.New("the disk is full")
	for name, c := range map[string]struct {
		ctx       context.Context
		err, want error
		said      bool
	}{
		"a success in time":      {alive, nil, nil, false},
		"a success that is late": {late, nil, nil, false},
		"another error in time":  {alive, full, full, false},
		"the caller's end":       {left, context.Canceled, context.Canceled, false},
		"the end of the time":    {late, context.Canceled, context.DeadlineExceeded, true},
		"an error after the end": {late, full, full, true},
	} {
		got := tookTooLong(c.ctx, c.err)
		if !errors.Is(got, c.want) || (got == c.want) == c.said {
			t.Errorf("%s: %v", name, got)
		}
	}
}
