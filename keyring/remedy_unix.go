//go:build !darwin && !windows

package keyring

const remedy = "unlock it, or start a Secret Service (GNOME Keyring, KWallet, KeePassXC) on the session's D-Bus"
