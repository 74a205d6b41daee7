//go:build linux

package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/walletauth/walletauth/walletauthtest"
)

// The recipes of the README do what they say.
func TestReadmeRecipes(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	env, api := home(t)
	login(t, env, api)
	env = append(env, "API="+api.URL)
	for _, recipe := range []struct{ name, lang, says string }{
		{"shell", "sh", `(?s)^\[\]\n\[\]\n\{"id":.*\}\n\[\{"id":.*\}\]\nlogged in\n$`},
		{"Python", "python", `^from Python 2\n$`},
		{"Node", "js", `^from Node 3\n$`},
	} {
		t.Run(recipe.name, func(t *testing.T) {
			code := regexp.MustCompile("(?s)```" + recipe.lang + "\n(.*?)```").FindSubmatch(readme)
			if code == nil {
				t.Fatal("the README has no such recipe")
			}
			file := filepath.Join(t.TempDir(), map[string]string{"sh": "recipe.sh", "python": "recipe.py", "js": "recipe.mjs"}[recipe.lang])
			if err := os.WriteFile(file, code[1], 0o600); err != nil {
				t.Fatal(err)
			}
			args := map[string][]string{
				"sh":     {"sh", file},
				"python": {binary, "exec", "--", "python3", file},
				"js":     {binary, "exec", "--", "node", file},
			}[recipe.lang]
			if out, code := runCommand(t, env, args...); code != 0 || !regexp.MustCompile(recipe.says).MatchString(out) {
				t.Errorf("exit code %d\n%s", code, out)
			}
		})
	}
	if got := api.Requests(walletauthtest.CreateWallet); got != 3 {
		t.Errorf("%d wallets were made, want 3", got)
	}
}

// The README names every command and every exit code, and its picture is of this
// program.
func TestReadmeIsComplete(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	help, err := exec.Command(binary, "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, commands, _ := strings.Cut(string(help), "Available Commands:\n")
	commands, _, _ = strings.Cut(commands, "\n\n")
	verbs := regexp.MustCompile(`(?m)^  (\w+) `).FindAllStringSubmatch(commands, -1)
	if len(verbs) != 12 { // with help
		t.Errorf("%d commands in --help", len(verbs))
	}
	for _, verb := range verbs {
		if verb[1] != "help" && !strings.Contains(string(readme), "\n| `"+verb[1]) {
			t.Errorf("the README's table lacks %s", verb[1])
		}
	}
	for _, code := range []string{"0", "1", "2", "3", "4", "5", "130"} {
		if !strings.Contains(string(readme), "\n| "+code+" |") {
			t.Errorf("the README's table lacks exit code %s", code)
		}
	}
	picture, err := os.ReadFile("session.svg")
	if err != nil {
		t.Fatal(err)
	}
	for _, typed := range []string{"login", "status", "request", "exec", "doctor", "logout", "token"} {
		if !strings.Contains(string(picture), `ffffff">walletauth `+typed) {
			t.Errorf("the picture does not show %s", typed)
		}
	}
	checkOutput(t, string(picture))
}
