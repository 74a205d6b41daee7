package guard

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
)

type holder struct{ field string }

// deref panics by itself, in the runtime.
func deref(h *holder) string { return h.field }

func TestCallTurnsPanicAndGoexitIntoErrors(t *testing.T) {
	for _, row := range []struct {
		promise string
		fn      func() error
		want    string
	}{
		{"a panic says where it was", func() error { panic("boom") }, "walletauth: Hook panicked: boom (in github.com/walletauth/walletauth/internal/guard.TestCall"},
		{"a panic with an error keeps its text", func() error { panic(io.EOF) }, "walletauth: Hook panicked: EOF (in "},
		{"a nil dereference names the function, not the runtime", func() error { return errors.New(deref(nil)) }, "invalid memory address or nil pointer dereference (in github.com/walletauth/walletauth/internal/guard."},
		{"a panic with nil", func() error { panic(nil) }, "walletauth: Hook panicked: panic called with nil argument"}, //nolint:govet // that is the case
		{"runtime.Goexit", func() error { runtime.Goexit(); return nil }, "walletauth: Hook ended its goroutine (runtime.Goexit)"},
	} {
		t.Run(row.promise, func(t *testing.T) {
			err := Call("Hook", row.fn)
			var crash *Error
			if !errors.As(err, &crash) || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "(in runtime.") {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestCallReturnsWhatTheFunctionDoes(t *testing.T) {
	for _, want := range []error{nil, io.EOF} {
		if err := Call("Hook", func() error { return want }); err != want {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestRecoverWithoutAPanicLeavesTheErrorAlone(t *testing.T) {
	fn := func(result error) (err error) {
		defer Recover("Hook", &err)
		return result
	}
	for _, want := range []error{nil, io.EOF} {
		if err := fn(want); err != want {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestRecoverSaysWhereThePanicWas(t *testing.T) {
	fn := func() (err error) {
		defer Recover("Hook", &err)
		panic("boom")
	}
	if err := fn(); err == nil || !strings.Contains(err.Error(), "boom (in github.com/walletauth/walletauth/internal/guard.TestRecover") {
		t.Errorf("got %v", err)
	}
}
