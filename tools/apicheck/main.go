// Apicheck compares what modules export with what they exported at the last
// release, and fails if a change that breaks programs is not announced:
//
//	apicheck . filestore redisstore
//
// The baseline is a folder with a file for each package: its exported
// declarations, as Go source. Text, because the export data of the compiler,
// which golang.org/x/exp/cmd/apidiff writes, is neither read nor reviewed by
// people and changes with Go; files, because a tag is absent from a shallow
// clone and before the first release. What is incompatible is decided by
// golang.org/x/exp/apidiff.
//
// A change that is incompatible passes if the section "Unreleased" of the
// changelog has, under "### Breaking", a line with the full name of what
// changed, as in `filestore.Store.Dir` or `walletauth.Save`.
//
// With -update the baseline is written anew, as part of a release: scripts/api.sh
// does that. With -exact every difference fails, additions too, before a release
// is tagged.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	baseline  string
	changelog string
	update    bool
	exact     bool
	modules   []string
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("apicheck", flag.ContinueOnError)
	flags.StringVar(&o.baseline, "baseline", "tools/api", "the folder of the baseline")
	flags.StringVar(&o.changelog, "changelog", "CHANGELOG.md", "the file that announces incompatible changes")
	flags.BoolVar(&o.update, "update", false, "write the baseline")
	flags.BoolVar(&o.exact, "exact", false, "fail for every difference")
	err = flags.Parse(args)
	o.modules = flags.Args()
	if err == nil && len(o.modules) == 0 {
		err = errors.New("apicheck: name the folders of the modules")
	}
	return o, err
}

func run(args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	packages, err := loadModules(o.modules)
	if err != nil {
		return err
	}
	if o.update {
		return update(o.baseline, packages)
	}
	if o.exact {
		return compareExactly(o.baseline, packages)
	}
	announced, err := readAnnounced(o.changelog)
	if err != nil {
		return err
	}
	return check(o.baseline, packages, announced, out)
}

// update makes the baseline the API as it is.
func update(folder string, packages []*exported) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	gone, err := baselines(folder)
	if err != nil {
		return err
	}
	for _, p := range packages {
		if err := os.WriteFile(filepath.Join(folder, p.file()), p.declarations(), 0o644); err != nil {
			return err
		}
		if changes, err := p.incompatible(folder); err != nil || len(changes) > 0 {
			return fmt.Errorf("what was written of %s is not what it exports: %v, %w", p.types.Path(), changes, err)
		}
		gone = slices.DeleteFunc(gone, func(name string) bool { return name == p.file() })
	}
	for _, name := range gone {
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			return err
		}
	}
	return nil
}

func baselines(folder string) (names []string, err error) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.txt"))
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	return names, err
}

// compareExactly fails unless the baseline is the API as it is.
func compareExactly(folder string, packages []*exported) error {
	names, err := baselines(folder)
	if err != nil {
		return err
	}
	var differ []string
	for _, p := range packages {
		was, err := os.ReadFile(filepath.Join(folder, p.file()))
		if err != nil || string(was) != string(p.declarations()) {
			differ = append(differ, p.file())
		}
		names = slices.DeleteFunc(names, func(name string) bool { return name == p.file() })
	}
	if differ = append(differ, names...); len(differ) > 0 {
		return fmt.Errorf("%s is not the API as it is: run make api (%s)", folder, strings.Join(differ, ", "))
	}
	return nil
}

// check fails for incompatible changes that are not announced, and prints those
// that are.
func check(folder string, packages []*exported, announced []string, out io.Writer) error {
	names, err := baselines(folder)
	if err != nil {
		return err
	}
	var broken []change
	for _, p := range packages {
		changes, err := p.incompatible(folder)
		if err != nil {
			return err
		}
		broken = append(broken, changes...)
		names = slices.DeleteFunc(names, func(name string) bool { return name == p.file() })
	}
	for _, name := range names {
		broken = append(broken, change{name: strings.TrimSuffix(name, ".txt"), what: "the package was removed"})
	}
	return requireAnnounced(broken, announced, out)
}

func requireAnnounced(broken []change, announced []string, out io.Writer) error {
	var missing []string
	for _, c := range broken {
		if slices.ContainsFunc(announced, c.isNamedIn) {
			fmt.Fprintln(out, "announced:", c)
			continue
		}
		missing = append(missing, "\t"+c.String())
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("these changes break programs:\n%s\nUndo them, or add a line for each to CHANGELOG.md, "+
		"under \"### Breaking\" of the section \"Unreleased\", with the name in backquotes", strings.Join(missing, "\n"))
}

// change is an incompatible one.
type change struct {
	name string // of what changed, as in walletauth.Transport.Store
	what string
}

func (c change) String() string { return fmt.Sprintf("`%s`: %s", c.name, c.what) }

func (c change) isNamedIn(line string) bool { return strings.Contains(line, "`"+c.name+"`") }

// readAnnounced returns the lines of the changelog under the heading "Breaking"
// of its section "Unreleased".
func readAnnounced(path string) (lines []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var unreleased, breaking bool
	for line := range strings.Lines(string(data)) {
		switch {
		case strings.HasPrefix(line, "## "):
			unreleased, breaking = strings.HasPrefix(line, "## Unreleased"), false
		case strings.HasPrefix(line, "### "):
			breaking = strings.TrimSpace(line) == "### Breaking"
		case unreleased && breaking:
			lines = append(lines, line)
		}
	}
	return lines, nil
}
