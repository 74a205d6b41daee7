//go:build linux

package main_test

import (
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// refreshTokens is the form of every refresh token that the stand-in issues.
var refreshTokens = regexp.MustCompile(`refresh-[A-Z2-7]{26}`)

// goNames are names that only programmers of the library know.
var goNames = regexp.MustCompile(`\b(walletauth|filestore|keyring|http|net|os|context|url|json)\.[A-Z]\w*|` +
	`\b(NewSealedCodec|AllowNetworkFS|AllowHTTP|BaseURL|ProjectID|RefreshTimeout|TokenStore|Transport|StoreError|RefreshError|Err[A-Z]\w+)\b`)

// checkOutput fails t if what a command said, to whomever, holds a secret, or
// speaks to programmers.
func checkOutput(t *testing.T, output string, keys ...string) {
	t.Helper()
	for _, found := range faultsIn(output, keys) {
		t.Errorf("%s:\n%s", found, output)
	}
}

func faultsIn(output string, keys []string) []string {
	found := secretsIn(output, keys)
	for _, name := range goNames.FindAllString(output, -1) {
		found = append(found, "the output says "+name+" to a user")
	}
	return found
}

func secretsIn(text string, keys []string) (found []string) {
	for _, token := range refreshTokens.FindAllString(text, -1) {
		found = append(found, "it holds the refresh token "+token)
	}
	for _, key := range keys {
		if strings.Contains(text, key) {
			found = append(found, "it holds the sealing key")
		}
	}
	return found
}

// searchFiles returns what is found in all files below dir but sessions and
// keys: in profiles, and in what scripts have redirected.
func searchFiles(dir string, keys []string) (found []string, err error) {
	err = filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || strings.HasSuffix(file, ".session") || strings.HasSuffix(file, ".key") {
			return err
		}
		text, err := os.ReadFile(file)
		for _, secret := range secretsIn(string(text), keys) {
			found = append(found, file+": "+secret)
		}
		return err
	})
	return found, err
}

// sealingKeys are the keys in files below dir whose names end in .key, in the
// forms that a program might print.
func sealingKeys(dir string) (keys []string, err error) {
	err = filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || !strings.HasSuffix(file, ".key") {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text))); err == nil && len(raw) == 32 {
			keys = append(keys, formsOf(raw)...)
		}
		return nil
	})
	return keys, err
}

func formsOf(raw []byte) []string {
	return []string{
		string(raw), hex.EncodeToString(raw),
		base64.RawStdEncoding.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw),
	}
}

// The search would pass for no reason if it did not find what it looks for.
func TestSearchFindsSecrets(t *testing.T) {
	key := strings.Repeat("k", 32)
	for name, output := range map[string]string{
		"a refresh token":        "oh no: refresh-" + strings.Repeat("A", 26),
		"a sealing key":          "key " + key,
		"a sealing key in hex":   hex.EncodeToString([]byte(key)),
		"a sealing key, encoded": base64.StdEncoding.EncodeToString([]byte(key)),
		"a name of Go":           "seal by walletauth.NewSealedCodec",
	} {
		t.Run(name, func(t *testing.T) {
			if found := faultsIn(output, formsOf([]byte(key))); len(found) == 0 {
				t.Errorf("%q passes", output)
			}
		})
	}
}

func TestSearchFindsSecretsInFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"log": "refresh-" + strings.Repeat("A", 26), "my.session": "refresh-" + strings.Repeat("A", 26)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := searchFiles(dir, nil)
	if err != nil || len(found) != 1 || !strings.HasPrefix(found[0], filepath.Join(dir, "log")) {
		t.Errorf("found %q, %v", found, err)
	}
}
