package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/walletauth/walletauth"
)

// profile says which API a session is for and where it is kept. It holds no
// secret.
type profile struct {
	Name    string `json:"name"`
	API     string `json:"api"` // the address, without a slash at the end
	Project string `json:"project"`
	Storage string `json:"storage"` // one of the constants below
	KeyFile string `json:"key_file,omitempty"`
}

const (
	inKeyring = "keyring"
	inKeyFile = "key-file"
	inClear   = "insecure"
)

// key names the session of p in the store. API and project are part of it, so
// that a profile that was changed cannot send a session to another API.
func (p *profile) key() string { return strings.Join([]string{p.Name, p.API, p.Project}, "\n") }

// host is the API as people know it.
func (p *profile) host() string {
	u, err := url.Parse(p.API)
	if err != nil {
		return p.API
	}
	return u.Host
}

// sealedBy says how the session is kept, for people.
func (p *profile) sealedBy() string {
	switch p.Storage {
	case inKeyFile:
		return "sealed by the key in " + p.KeyFile
	case inClear:
		return "not sealed"
	}
	return "sealed by the keyring"
}

// appName names the folder of the profiles and sessions, and the key in the
// keyring.
const appName = "walletauth"

// configDir is the folder of the profiles and sessions.
func configDir() (string, error) {
	config, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("there is no folder for configuration (%w): set HOME or XDG_CONFIG_HOME", err)
	}
	return filepath.Join(config, appName), nil
}

// isProfileName: a name is part of a file's name, also on systems that fold
// case.
func isProfileName(name string) bool {
	const first, others = "abcdefghijklmnopqrstuvwxyz0123456789", "._-"
	return name != "" && len(name) <= 64 && strings.ContainsRune(first, rune(name[0])) &&
		!strings.ContainsFunc(name, func(r rune) bool { return !strings.ContainsRune(first+others, r) })
}

const profilePrefix, profileSuffix = "profile-", ".json"

func profileFile(name string) (string, error) {
	if !isProfileName(name) {
		return "", failed(exitWrongUse, "%q cannot be a profile: use up to 64 of a-z, 0-9, dot, dash and underscore, a letter or digit first", name)
	}
	dir, err := configDir()
	return filepath.Join(dir, profilePrefix+name+profileSuffix), err
}

// loadProfile returns the profile, or an error that wraps fs.ErrNotExist.
func loadProfile(name string) (*profile, error) {
	file, err := profileFile(name)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	p := &profile{}
	if err := json.Unmarshal(data, p); err != nil || p.Name != name {
		return nil, fmt.Errorf("%s is not the profile %s: remove it and log in again", file, name)
	}
	if p.API, err = parseAPI(p.API); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

// save writes the profile beside the old one and renames it, so that a command
// that runs meanwhile reads one or the other.
func (p *profile) save() error {
	file, err := profileFile(p.Name)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	return writeFile(file, append(data, '\n'))
}

func writeFile(file string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".profile-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// profileNamesKnown lists the profiles in alphabetical order.
func profileNamesKnown() ([]string, error) {
	dir, err := configDir()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		name, isProfile := strings.CutPrefix(entry.Name(), profilePrefix)
		if name, ends := strings.CutSuffix(name, profileSuffix); isProfile && ends && isProfileName(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// parseAPI makes an address of what --api was given. Plain http is for a
// stand-in on this machine.
func parseAPI(api string) (string, error) {
	switch api {
	case "testnet":
		return walletauth.Testnet, nil
	case "mainnet":
		return walletauth.Mainnet, nil
	}
	u, err := url.Parse(api)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
		u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return "", failed(exitWrongUse, "%q is no address of the API: use testnet, mainnet or https://HOST; http:// only for this machine (localhost)", api)
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// checkProject refuses what cannot be sent in a header.
func checkProject(project string) error {
	if strings.ContainsFunc(project, func(r rune) bool { return unicode.IsControl(r) || r > unicode.MaxASCII }) {
		return failed(exitWrongUse, "%q is no project: it is the project's id from WalletKit's dashboard", project)
	}
	return nil
}
