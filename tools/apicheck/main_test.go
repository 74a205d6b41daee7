package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const before = `
package made

import (
	"context"
	"net/http"
	"sync"
)

const Name = "a"

const Small uint8 = 3

var ErrGone, errHidden error

type Store interface {
	Load(ctx context.Context, key string) error
}

type Alias = http.Client

type Set[K comparable] struct{ m map[K]bool }

func (s *Set[T]) Add(k T) {}

type Config struct {
	URL  string
	Mode int
}

type Client struct {
	Config
	Base http.RoundTripper
	base
	once sync.Once
}

func (c *Client) Get(ctx context.Context) error { return nil }
func (c Client) String() string                 { return "" }

type base struct{}

func (base) Promoted() {}

func Open(path string, options ...func(*Config)) (*Client, error) { return nil, nil }

func Parse(text string) {}

type Point struct {
	X, Y int
}

func hidden() {}
`

// module makes a module of one package, and a changelog beside it.
func module(t *testing.T, source, changelog string) (args []string) {
	t.Helper()
	folder := t.TempDir()
	write(t, folder, "go.mod", "module example.com/made\n\ngo 1.26.0\n")
	write(t, folder, "made.go", source)
	write(t, folder, "CHANGELOG.md", changelog)
	return []string{"-baseline", filepath.Join(folder, "api"), "-changelog", filepath.Join(folder, "CHANGELOG.md"), folder}
}

func write(t *testing.T, folder, name, text string) {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// baseline is written once: each time takes the go command some seconds.
func baseline(t *testing.T) string {
	t.Helper()
	once.Do(func() {
		args := module(t, before, "")
		if err := run(append([]string{"-update"}, args...), nil); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(args[4], "api", "made.txt"))
		if err != nil {
			t.Fatal(err)
		}
		written = string(data)
	})
	return written
}

var (
	once    sync.Once
	written string
)

// changed makes a module, its baseline, and then a change.
func changed(t *testing.T, old, new, changelog string) (args []string) {
	t.Helper()
	args = module(t, before, changelog)
	write(t, args[4], "api/made.txt", baseline(t))
	if !strings.Contains(before, old) {
		t.Fatalf("there is no %q", old)
	}
	write(t, args[4], "made.go", strings.Replace(before, old, new, 1))
	return args
}

func TestIncompatibleChangesFail(t *testing.T) {
	type edit struct{ old, new, want string }
	edits := map[string]edit{
		"a function is gone":                {"func Open(", "func open(", "`made.Open`: removed"},
		"a parameter is another":            {"Parse(text string", "Parse(text []byte", "`made.Parse`: changed from"},
		"a method is gone":                  {"Get(", "get(", "`made.Client.Get`: removed"},
		"a value lost its method":           {"(c Client) String", "(c *Client) String", "`made.Client.String`: removed"},
		"a promoted method is gone":         {"Promoted()", "promoted()", "`made.Client.Promoted`: removed"},
		"a method of a generic type":        {"Add(k T)", "Add(k []T)", "`made.Set.Add`: changed from"},
		"an interface wants more":           {"Load(", "Close() error\n\tLoad(", "`made.Store.Close`: added"},
		"a field is gone":                   {"URL ", "url ", "`made.Config.URL`: removed"},
		"a field has another type":          {"Mode int", "Mode string", "`made.Config.Mode`: changed from int to string"},
		"a struct is no longer comparable":  {"type Point struct {", "type Point struct {\n\thidden []int", "`made.Point`: old is comparable, new is not"},
		"a constant has another value":      {`"a"`, `"b"`, "`made.Name`: value changed"},
		"a constant has another type":       {"uint8", "uint16", "`made.Small`: changed from uint8 to uint16"},
		"a variable is gone":                {"ErrGone,", "", "`made.ErrGone`: removed"},
		"a field of what embeds it is gone": {"", "", "`made.Client.URL`: removed"},
		"a field of what embeds it":         {"", "", "`made.Client.Mode`: changed from int to string"},
		"an alias is of another type":       {"= http.Client", "= http.Server", "`made.Alias`: changed from"},
	}
	source := before
	for name, e := range edits {
		if !strings.Contains(source, e.old) {
			t.Fatalf("%s: there is no %q", name, e.old)
		}
		source = strings.Replace(source, e.old, e.new, 1)
	}
	args := changed(t, before, source, "# Changelog\n\n## Unreleased\n")
	err := run(args, nil)
	if err == nil {
		t.Fatal("nothing was found")
	}
	for name, e := range edits {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(err.Error(), "\t"+e.want) {
				t.Errorf("%v\nwant %s", err, e.want)
			}
		})
	}
	if n := strings.Count(err.Error(), "\t`"); n != len(edits) {
		t.Errorf("%d changes were found, want %d: %v", n, len(edits), err)
	}
}

func TestCompatibleChangesPass(t *testing.T) {
	source := before + "func (c *Client) More() {}\n\nfunc More() {}\n"
	for old, new := range map[string]string{
		"Mode int":         "Mode int\n\tMore string",
		"func hidden() {}": "",
		"path string":      "name string",
		"once sync.Once":   "",
	} {
		source = strings.Replace(source, old, new, 1)
	}
	args := changed(t, before, strings.Replace(source, `"sync"`, "", 1), "")
	if err := run(args, nil); err != nil {
		t.Error(err)
	}
}

func TestAnnouncedChangePasses(t *testing.T) {
	args := changed(t, "func Open(", "func open(", "## Unreleased\n\n### Breaking\n\n- `made.Open` is gone.\n")
	var out strings.Builder
	if err := run(args, &out); err != nil {
		t.Error(err)
	}
	if out.String() != "announced: `made.Open`: removed\n" {
		t.Errorf("printed %q", &out)
	}
}

func TestAnnouncedIsWhatIsUnreleasedAndBreaking(t *testing.T) {
	for name, c := range map[string]struct {
		changelog string
		announced bool
	}{
		"announced":                         {"## Unreleased\n\n### Breaking\n\n- `made.Open` is gone.\n", true},
		"with the version that it is to be": {"## Unreleased, to be v1.0.0\n\n### Breaking\n\n- `made.Open` is gone.\n", true},
		"after another section":             {"## Unreleased\n\n### Added\n\n### Breaking\n\n- `made.Open` is gone.\n", true},
		"another name":                      {"## Unreleased\n\n### Breaking\n\n- `made.OpenFile` is gone.\n", false},
		"no name":                           {"## Unreleased\n\n### Breaking\n\n- made.Open is gone.\n", false},
		"under another heading":             {"## Unreleased\n\n### Added\n\n- `made.Open`\n", false},
		"after the breaking ones":           {"## Unreleased\n\n### Breaking\n\n### Added\n\n- `made.Open`\n", false},
		"in an earlier release":             {"## Unreleased\n\n## v0.1.0\n\n### Breaking\n\n- `made.Open` is gone.\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "CHANGELOG.md")
			if err := os.WriteFile(path, []byte(c.changelog), 0o644); err != nil {
				t.Fatal(err)
			}
			lines, err := readAnnounced(path)
			if err != nil {
				t.Fatal(err)
			}
			err = requireAnnounced([]change{{name: "made.Open", what: "removed"}}, lines, io.Discard)
			if (err == nil) != c.announced {
				t.Errorf("%v, announced: %t", err, c.announced)
			}
		})
	}
}

func TestPackageThatIsGoneFails(t *testing.T) {
	args := changed(t, "", "", "")
	write(t, args[4], "api/made-sub.txt", "package sub\n")
	err := run(args, nil)
	if err == nil || !strings.Contains(err.Error(), "`made-sub`: the package was removed") {
		t.Error(err)
	}
}

func TestPackageWithoutBaselineFails(t *testing.T) {
	args := changed(t, "", "", "")
	write(t, args[4], "sub/sub.go", "package sub\n\nfunc F() {}\n")
	err := run(args, nil)
	if err == nil || !strings.Contains(err.Error(), "example.com/made/sub has no baseline, run make api") {
		t.Error(err)
	}
}

func TestNobodyRelies(t *testing.T) {
	args := changed(t, "", "", "")
	write(t, args[4], "internal/in/in.go", "package in\n\nfunc F() {}\n")
	write(t, args[4], "cmd/x/main.go", "package main\n\nfunc main() {}\n\nfunc F() {}\n")
	write(t, args[4], "empty/empty.go", "package empty\n")
	if err := run(args, nil); err != nil {
		t.Error(err)
	}
}

func TestExact(t *testing.T) {
	same := changed(t, "", "", "")
	if err := run(append([]string{"-exact"}, same...), nil); err != nil {
		t.Error(err)
	}
	more := changed(t, "func hidden() {}", "func More() {}", "")
	err := run(append([]string{"-exact"}, more...), nil)
	if err == nil || !strings.Contains(err.Error(), "made.txt") {
		t.Error(err)
	}
}

func TestUpdateRemovesWhatIsGone(t *testing.T) {
	args := changed(t, "", "", "")
	gone := filepath.Join(args[4], "api", "made-sub.txt")
	write(t, args[4], "api/made-sub.txt", "package sub\n")
	if err := run(append([]string{"-update"}, args...), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Error(err)
	}
}

// A signature with a type that nobody else can name could not be read again.
func TestUpdateRefusesWhatItCannotWrite(t *testing.T) {
	args := module(t, "package made\n\ntype hidden int\n\nfunc F() hidden { return 0 }\n", "")
	err := run(append([]string{"-update"}, args...), nil)
	if err == nil || !strings.Contains(err.Error(), "undefined: hidden") {
		t.Error(err)
	}
}
