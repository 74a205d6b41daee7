// Package guard turns panics in somebody else's code into errors.
package guard

import (
	"fmt"
	"runtime"
	"strings"
)

// Error is a panic or Goexit in somebody else's code.
type Error struct{ text string }

// Error says what panicked, and where.
func (e *Error) Error() string { return "walletauth: " + e.text }

// Call runs fn, which is somebody else's code, and turns a panic or a
// runtime.Goexit in it into an error. It takes a goroutine, because a Goexit can
// be survived in no other way.
func Call(name string, fn func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer Recover(name, &err)
		err = &Error{name + " ended its goroutine (runtime.Goexit)"}
		err = fn()
	}()
	<-done
	return err
}

// Recover is to be deferred around somebody else's code: it turns a panic
// into an error that says where it came from.
func Recover(name string, err *error) {
	if p := recover(); p != nil {
		*err = &Error{fmt.Sprintf("%s panicked: %v%s", name, p, panicSite())}
	}
}

// panicSite is the line that panicked: a stack would be a screenful in every
// log line, and without any place the error helps nobody.
func panicSite() string {
	pc := make([]uintptr, 32)
	frames := runtime.CallersFrames(pc[:runtime.Callers(3, pc)])
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, "runtime.") {
			return fmt.Sprintf(" (in %s, line %d)", frame.Function, frame.Line)
		}
		if !more {
			return ""
		}
	}
}
