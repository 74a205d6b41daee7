package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/walletauth/walletauth"
)

// Exit codes are part of the interface: scripts tell by them what to do.
const (
	exitOK          = 0
	exitFailed      = 1
	exitWrongUse    = 2
	exitNotLoggedIn = 3
	exitOver        = 4
	exitUnreachable = 5
	exitNotRunnable = 126 // exec: as a shell has it
	exitNotFound    = 127
	exitInterrupted = 130
)

// failure is an error whose exit code is decided already. A nil err means that
// everything has been said.
type failure struct {
	code int
	err  error
}

func (f *failure) Error() string {
	if f.err == nil {
		return ""
	}
	return f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

var errInterrupted = &failure{exitInterrupted, errors.New("interrupted")}

func failed(code int, format string, args ...any) error {
	return &failure{code, fmt.Errorf(format, args...)}
}

func wrongUse(cmd *cobra.Command, err error) error {
	return failed(exitWrongUse, "%w\nUsage: %s\nRun %s --help for more", err, cmd.UseLine(), cmd.CommandPath())
}

// explain returns the exit code of an error and what to tell the user: a
// sentence and what to do, without the names that the library has for things.
func explain(err error, profile string) (code int, text string) {
	login := "walletauth login"
	if profile != "" && profile != "default" {
		login = "walletauth login --profile " + profile
	}
	var decided *failure
	var refused *walletauth.RefreshError
	switch {
	case errors.As(err, &decided):
		return decided.code, decided.Error()
	case errors.Is(err, walletauth.ErrNoSession):
		return exitNotLoggedIn, "not logged in: run " + login
	case errors.Is(err, walletauth.ErrSessionExpired):
		return exitOver, "the session is over" + reason(err) + ": run " + login
	case errors.Is(err, walletauth.ErrUnreadable) && strings.Contains(err.Error(), "run chmod"):
		return exitFailed, plain(err) // others may have read it
	case errors.Is(err, walletauth.ErrUnreadable):
		return exitFailed, "the stored session cannot be read: the key that sealed it has changed, or the file is damaged: run " + login
	case errors.Is(err, context.Canceled):
		return exitInterrupted, "interrupted"
	case errors.As(err, &refused) && refused.StatusCode != 0:
		return exitUnreachable, fmt.Sprintf("WalletKit could not refresh the session now: it answered %d%s: try again later", refused.StatusCode, reason(err))
	case isNetwork(err):
		return exitUnreachable, "WalletKit cannot be reached: " + networkCause(err) + ": check the connection, or run walletauth doctor"
	case strings.HasPrefix(err.Error(), "unknown command"):
		return exitWrongUse, err.Error() + "\nRun walletauth --help for the commands"
	}
	return exitFailed, plain(err)
}

// reason is what WalletKit gave as its reason, in parentheses, "" if nothing.
func reason(err error) string {
	var refused *walletauth.RefreshError
	if errors.As(err, &refused) && refused.Message != "" {
		return " (WalletKit says: " + printable(refused.Message) + ")"
	}
	return ""
}

func isNetwork(err error) bool {
	var onNet net.Error
	var refused *walletauth.RefreshError
	var certificate x509.UnknownAuthorityError
	return errors.As(err, &onNet) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.As(err, &refused) || errors.As(err, &certificate)
}

// networkCause is the last link of a network error's chain, in words.
func networkCause(err error) string {
	var dns *net.DNSError
	var onNet net.Error
	switch {
	case errors.As(err, &dns):
		return "the name " + printable(dns.Name) + " was not found"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "it refused the connection"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return "it closed the connection without an answer"
	case errors.As(err, &onNet) && onNet.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "it did not answer in time"
	}
	return plain(innermost(err))
}

func innermost(err error) error {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}

// packages are the prefixes by which errors of the library begin.
var packages = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(^|: )(walletauth|filestore|keyring): `) })

// inWords replaces what errors of the library say to programmers.
var inWords = strings.NewReplacer(
	", or Store.AllowNetworkFS if no other machine uses this one", "",
	"set Store.Dir to the folder itself", "set XDG_CONFIG_HOME to a folder without the link",
	"set Store.Dir", "set XDG_CONFIG_HOME",
)

// plain is an error without the packages that it came through.
func plain(err error) string {
	var onURL *url.Error
	if errors.As(err, &onURL) {
		err = onURL.Err
	}
	var onStore *walletauth.StoreError
	if errors.As(err, &onStore) {
		err = onStore.Err
	}
	return printable(inWords.Replace(packages().ReplaceAllString(err.Error(), "$1")))
}

// printable takes from a text what would steer a terminal: it may come from the
// network.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, s)
}
