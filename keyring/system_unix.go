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
// A bus that gives out no names, as in some sandboxes, is no error: the lock file
// has to do there.
func lockKeyring(ctx context.Context, service string) (unlock func(), err error) {
	var conn *dbus.Conn
	connected := start(func() (err error) {
		conn, err = dbus.ConnectSessionBus()
		return err
	})
	if err := wait(connected); err != nil {
		return nil, explain(err)
	}
	unlock = func() { _ = conn.Close() } // it frees the name, whatever it says
	sum := sha256.Sum256([]byte(service))
	for {
		var reply dbus.RequestNameReply
		call := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.RequestName", 0,
			"com.github.walletauth.keyring.k"+hex.EncodeToString(sum[:8]), uint32(dbus.NameFlagDoNotQueue))
		if err := call.Store(&reply); err == nil && reply == dbus.RequestNameReplyExists && ctx.Err() == nil {
			time.Sleep(pollEvery)
			continue
		}
		if ctx.Err() != nil {
			unlock()
			return nil, lockError(ctx, "a name on the D-Bus", ctx.Err())
		}
		return unlock, nil
	}
}
