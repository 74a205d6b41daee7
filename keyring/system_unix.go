//go:build !darwin && !windows

package keyring

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	startRemedy  = "start a Secret Service (GNOME Keyring, KWallet, KeePassXC) on the session's D-Bus"
	unlockRemedy = "unlock it, by logging in to the desktop or in its own program, and try again"
)

// isLocked knows the library's own error, for which it has no value, and the
// specification's.
func isLocked(err error) bool {
	var onBus dbus.Error
	return errors.As(err, &onBus) && onBus.Name == "org.freedesktop.Secret.Error.IsLocked" ||
		strings.HasPrefix(err.Error(), "failed to unlock ")
}

// isUnavailable reports whether the bus knows no keyring, or there is no bus:
// what is no answer of a bus is about the way to it.
func isUnavailable(err error) bool {
	var onBus dbus.Error
	if !errors.As(err, &onBus) {
		return true
	}
	return strings.HasPrefix(onBus.Name, "org.freedesktop.DBus.Error.Spawn.") || slices.Contains([]string{
		"org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
	}, onBus.Name)
}

// lockKeyring takes a name on the session's D-Bus, which one connection has at a
// time. Those who share a keyring share its bus, while their cache folders, and
// with them the lock file, may differ (XDG_CACHE_HOME). It lasts as long as the
// connection, at most as long as the process.
//
// A missing bus, or one that gives out no names as in some sandboxes, is not an
// error. The lock file alone has to do then.
func lockKeyring(ctx context.Context, service string) (unlock func(), err error) {
	var conn *dbus.Conn
	connected := start(func() (err error) {
		conn, err = connect()
		return err
	})
	if err := wait(connected); err != nil {
		return func() {}, nil
	}
	for {
		exists, err := requestName(ctx, conn, service)
		if ctx.Err() != nil {
			_ = conn.Close()
			return nil, lockError(ctx, "a name on the D-Bus", ctx.Err())
		}
		if err != nil || !exists {
			return func() { _ = conn.Close() }, nil // it frees the name, whatever it says
		}
		time.Sleep(pollEvery)
	}
}

// connect makes a connection of its own: a name belongs to one. It starts no
// bus.
func connect() (*dbus.Conn, error) {
	conn, err := dbus.SessionBusPrivateNoAutoStartup()
	if err != nil {
		return nil, err
	}
	if err = conn.Auth(nil); err == nil {
		err = conn.Hello()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// requestName reports whether another connection has the name.
func requestName(ctx context.Context, conn *dbus.Conn, service string) (exists bool, err error) {
	sum := sha256.Sum256([]byte(service))
	name := "com.github.walletauth.keyring.k" + hex.EncodeToString(sum[:8])
	var reply dbus.RequestNameReply
	err = conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.RequestName", 0, name, uint32(dbus.NameFlagDoNotQueue)).Store(&reply)
	return reply == dbus.RequestNameReplyExists, err
}
