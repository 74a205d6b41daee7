//go:build unix

package filestore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/filestore"
)

// command is the one that an error's text ends in, up to the next clause.
var command = regexp.MustCompile(`(?:chmod [0-7]+|rm) (?:'[^']*'|[^ ,]+)`)

// spoiled is a way to spoil a folder that holds session 1.
type spoiled struct {
	spoil func(t *testing.T, dir, file string)
	at    func(dir, file string) string // the path to be named
	want  string
	kept  bool // the session is there again after the command
}

var spoils = map[string]spoiled{
	"file others can read":      {chmod(fileOf, 0o644), fileOf, "other users may open it (mode 0644): run chmod 600 ", true},
	"file the group can read":   {chmod(fileOf, 0o640), fileOf, "other users may open it (mode 0640): run chmod 600 ", true},
	"file others can write":     {chmod(fileOf, 0o602), fileOf, "other users may open it (mode 0602): run chmod 600 ", true},
	"folder others can read":    {chmod(dirOf, 0o755), dirOf, "other users may open it (mode 0755): run chmod 700 ", true},
	"folder the group can list": {chmod(dirOf, 0o750), dirOf, "other users may open it (mode 0750): run chmod 700 ", true},
	"folder open to all":        {chmod(dirOf, 0o777), dirOf, "other users may open it (mode 0777): run chmod 700 ", true},
	"symlink to the file":       {spoilLink, fileOf, "it is a symbolic link", false},
	"symlink out of the folder": {spoilFarLink, fileOf, "it is a symbolic link", false},
	"symlink to nothing":        {spoilDanglingLink, fileOf, "it is a symbolic link", false},
	"symlink as the folder":     {spoilFolderLink, dirOf, "it is a symbolic link", false},
	"empty file":                {content(func(b []byte) []byte { return nil }), fileOf, "it is empty: log in again, which replaces the file, or restore it", false},
	"file of something else":    {content(func(b []byte) []byte { return []byte(`{"token":"refresh-secret"}`) }), fileOf, "it is not a session file of this version", false},
	"file of a later version":   {content(func(b []byte) []byte { return bytes.Replace(b, []byte(" 1 "), []byte(" 2 "), 1) }), fileOf, "it is not a session file of this version", false},
	"file cut to its first line": {content(func(b []byte) []byte { return b[:bytes.IndexByte(b, '\n')] }), fileOf,
		"the session is not valid JSON: log in again, which replaces the file, or restore it", false},
	"truncated file": {content(func(b []byte) []byte { return b[:len(b)-5] }), fileOf, "the session is not valid JSON", false},
	"file with a hole in it": {content(func(b []byte) []byte {
		return bytes.Replace(b, []byte("refresh-secret-000001"), nil, 1)
	}), fileOf, "the session lacks refresh_token", false},
	"huge file":                    {content(func(b []byte) []byte { return append(b, make([]byte, 2<<20)...) }), fileOf, "it is larger than any session", false},
	"file of another user's key":   {spoilCopy, fileOf, "it belongs to another session key", false},
	"lock file others can open":    {spoilLockMode, lockOf, "other users may open it (mode 0666): run chmod 600 ", true},
	"symlink as the lock":          {spoilLockLink, lockOf, "it is a symbolic link", true},
	"space and quote in the names": {chmod(fileOf, 0o644), fileOf, "run chmod 600 '", true},
}

// place is a Store over a folder that holds session 1 and was spoiled.
func (row spoiled) place(t *testing.T, name string) (st *filestore.Store, file string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "sessions")
	if strings.HasPrefix(name, "space") {
		dir = filepath.Join(t.TempDir(), "Application Support", "it's")
	}
	st = &filestore.Store{Dir: dir}
	save(t, st, "k", 1)
	file = only(t, dir, ".session")
	row.spoil(t, dir, file)
	return st, file
}

// Load and Update must refuse what is spoiled, name the path and say what to do:
// a command, which is run here by a shell and must help, or to log in again.
func TestRefusalSaysHowToMendIt(t *testing.T) {
	for name, row := range spoils {
		t.Run(name, func(t *testing.T) {
			st, file := row.place(t, name)
			at := row.at(st.Dir, file)
			err := st.Update(t.Context(), "k", put(2))
			checkRefusal(t, err, at, row.want)
			if at != lockOf(st.Dir, file) { // a Load needs no lock
				_, loadErr := (&filestore.Store{Dir: st.Dir}).Load(t.Context(), "k")
				checkRefusal(t, loadErr, at, row.want)
			}
			if got, want := errors.Is(err, walletauth.ErrUnreadable), at == file; got != want {
				t.Errorf("ErrUnreadable: %v, want %v: %v", got, want, err)
			}
			mend := command.FindString(strings.ReplaceAll(err.Error(), `'\''`, "\x00"))
			mend = strings.ReplaceAll(mend, "\x00", `'\''`)
			if mend == "" && !strings.Contains(err.Error(), "log in again") {
				t.Fatalf("error %q says nothing to do", err)
			}
			if out, err := exec.Command("sh", "-c", mend).CombinedOutput(); err != nil {
				t.Fatalf("the command %q does not run: %v: %s", mend, err, out)
			}
			if row.kept {
				if got := load(t, st, "k"); got != 1 {
					t.Errorf("after %q the session is %d, want 1", mend, got)
				}
			}
			save(t, st, "k", 3)
			if got := load(t, st, "k"); got != 3 {
				t.Errorf("after a login the session is %d, want 3", got)
			}
		})
	}
}

func TestLoginAndLogoutGoThroughWhatCannotBeRead(t *testing.T) {
	for name, row := range spoils {
		if row.at("dir", "file") != "file" {
			continue // a folder or a lock: nobody's session
		}
		t.Run(name, func(t *testing.T) {
			st, file := row.place(t, name)
			save(t, st, "k", 2)
			for _, reader := range []*filestore.Store{st, {Dir: st.Dir}} {
				if got := load(t, reader, "k"); got != 2 {
					t.Errorf("after a login the session is %d, want 2", got)
				}
			}
			checkMode(t, file, 0o600)
			st, file = row.place(t, name)
			must(t, walletauth.Delete(t.Context(), st, "k"))
			if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after a logout the file is there: %v", err)
			}
			if s, err := st.Load(t.Context(), "k"); !errors.Is(err, walletauth.ErrNoSession) {
				t.Errorf("after a logout: %v, %v, want ErrNoSession", s, err)
			}
		})
	}
}

// A login that followed the link would write where somebody else wants it.
func TestLoginReplacesALinkAndNotWhatItLeadsTo(t *testing.T) {
	dir, far := private(t), filepath.Join(t.TempDir(), "far")
	st := &filestore.Store{Dir: dir}
	save(t, st, "k", 1)
	file := only(t, dir, ".session")
	must(t, os.WriteFile(far, []byte("precious"), 0o644))
	must(t, os.Remove(file))
	must(t, os.Symlink(far, file))
	save(t, st, "k", 2)
	if got := load(t, st, "k"); got != 2 {
		t.Errorf("session %d, want 2", got)
	}
	if data, err := os.ReadFile(far); err != nil || string(data) != "precious" {
		t.Errorf("the link's target is now %q, %v", data, err)
	}
}

func checkRefusal(t *testing.T, err error, path, want string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	text := err.Error()
	if !strings.HasPrefix(text, "filestore: ") || !strings.Contains(text, path+": ") || !strings.Contains(text, want) {
		t.Errorf("error %q, want it to name %s and to say %q", text, path, want)
	}
	if strings.Contains(text, "secret") {
		t.Errorf("error %q holds a token", text)
	}
	if errors.Is(err, walletauth.ErrNoSession) {
		t.Errorf("error %q would log the user out", text)
	}
}

func dirOf(dir, _ string) string { return dir }

func fileOf(_, file string) string { return file }

func lockOf(_, file string) string { return strings.TrimSuffix(file, ".session") + ".lock" }

func chmod(of func(dir, file string) string, mode fs.FileMode) func(*testing.T, string, string) {
	return func(t *testing.T, dir, file string) { must(t, os.Chmod(of(dir, file), mode)) }
}

func content(edit func([]byte) []byte) func(*testing.T, string, string) {
	return func(t *testing.T, _, file string) {
		data, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, edit(data), 0o600))
	}
}

func spoilLink(t *testing.T, dir, file string) {
	must(t, os.Rename(file, file+".real"))
	must(t, os.Symlink(filepath.Base(file)+".real", file))
}

func spoilFarLink(t *testing.T, dir, file string) {
	far := filepath.Join(t.TempDir(), "far")
	must(t, os.Rename(file, far))
	must(t, os.Symlink(far, file))
}

func spoilDanglingLink(t *testing.T, dir, file string) {
	must(t, os.Remove(file))
	must(t, os.Symlink("nothing", file))
}

func spoilFolderLink(t *testing.T, dir, file string) {
	must(t, os.Rename(dir, dir+".real"))
	must(t, os.Symlink(dir+".real", dir))
}

func spoilCopy(t *testing.T, dir, file string) {
	other := filepath.Join(t.TempDir(), "other")
	save(t, &filestore.Store{Dir: other}, "another", 1)
	must(t, os.Rename(only(t, other, ".session"), file))
}

func spoilLockMode(t *testing.T, dir, file string) { must(t, os.Chmod(lockOf(dir, file), 0o666)) }

func spoilLockLink(t *testing.T, dir, file string) {
	must(t, os.Remove(lockOf(dir, file)))
	must(t, os.Symlink("elsewhere", lockOf(dir, file)))
}

func TestSessionThatIsCachedIsRefusedOnceOthersCanReadIt(t *testing.T) {
	dir := private(t)
	st := &filestore.Store{Dir: dir}
	save(t, st, "k", 1)
	load(t, st, "k")
	file := only(t, dir, ".session")
	must(t, os.Chmod(file, 0o644))
	_, err := st.Load(t.Context(), "k")
	checkRefusal(t, err, file, "chmod 600")
}

func TestThingsThatAreNoFileAreRefused(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"folder": func(path string) error { return os.Mkdir(path, 0o700) },
		"pipe":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := private(t)
			st := &filestore.Store{Dir: dir}
			save(t, st, "k", 1)
			file := only(t, dir, ".session")
			must(t, os.Remove(file))
			must(t, make(file))
			_, err := st.Load(t.Context(), "k")
			checkRefusal(t, err, file, "it is not a regular file: move it away")
			checkRefusal(t, st.Update(t.Context(), "k", put(2)), file, "it is not a regular file")
		})
	}
}

func TestFileInPlaceOfTheFolderIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, nil, 0o600))
	st := &filestore.Store{Dir: path}
	_, err := st.Load(t.Context(), "k")
	checkRefusal(t, err, path, "it is not a folder")
	checkRefusal(t, st.Update(t.Context(), "k", put(1)), path, "it is not a folder")
}

func TestEmptyFolderIsMadePrivate(t *testing.T) {
	for _, mode := range []fs.FileMode{0o755, 0o777, 0o700} {
		dir := filepath.Join(t.TempDir(), "sessions")
		must(t, os.Mkdir(dir, 0o700))
		must(t, os.Chmod(dir, mode))
		save(t, &filestore.Store{Dir: dir}, "k", 1)
		checkMode(t, dir, fs.ModeDir|0o700)
	}
}

// Others rely on a folder like /tmp, full or empty.
func TestEmptyFolderMeantForAllIsLeftAlone(t *testing.T) {
	dir := private(t)
	must(t, os.Chmod(dir, fs.ModeSticky|0o777))
	checkRefusal(t, (&filestore.Store{Dir: dir}).Update(t.Context(), "k", put(1)), dir, "other users may open it")
	checkMode(t, dir, fs.ModeDir|fs.ModeSticky|0o777)
}

// Whoever owns the folder can read what is in it, whatever the mode says.
func TestFolderOfAnotherUserIsRefused(t *testing.T) {
	dir := "/usr" // the administrator's
	if os.Geteuid() == 0 {
		dir = private(t)
		must(t, os.Chown(dir, 65534, 65534))
	}
	checkRefusal(t, (&filestore.Store{Dir: dir}).Update(t.Context(), "k", put(1)), dir,
		fmt.Sprintf("it belongs to another user: as an administrator, run chown %d %s", os.Geteuid(), dir))
}

func checkMode(t testing.TB, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	if info.Mode() != want {
		t.Errorf("%s has the mode %v, want %v", path, info.Mode(), want)
	}
}

func init() {
	workers["umask"] = umaskWorker
	workers["denied"] = deniedWorker
}

// becomeNobody makes the worker an ordinary user whose folder dir is: nothing
// is ever denied to the administrator.
func becomeNobody(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		return err
	}
	return syscall.Setuid(65534)
}

// umaskWorker stores under a umask and says the modes of all there is.
func umaskWorker(w *workerSide) error {
	if err := becomeNobody(w.dir); err != nil {
		return err
	}
	syscall.Umask(w.number(0))
	dir := filepath.Join(w.dir, "sessions")
	st := &filestore.Store{Dir: dir}
	for n := 1; n <= 2; n++ { // the second finds the first's files
		if err := st.Update(w.context(), "k", put(n)); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		fmt.Println(filepath.Ext(path), info.Mode())
		return err
	})
}

func TestModesAreForcedWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		t.Run(fmt.Sprintf("%04o", umask), func(t *testing.T) {
			w := start(t, "umask", openToAll(t), umask)
			w.expect(" drwx------")
			w.expect(".lock -rw-------")
			w.expect(".session -rw-------")
			must(t, w.wait())
		})
	}
}

// openToAll is a folder that another user can be given: all of the way to it
// can be walked by all.
func openToAll(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "filestore")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// deniedWorker takes rights from itself, says the error that results, and
// whether all is well after they were given back.
func deniedWorker(w *workerSide) error {
	if err := becomeNobody(w.dir); err != nil {
		return err
	}
	st := w.store()
	if err := st.Update(w.context(), "k", put(1)); err != nil {
		return err
	}
	report := func(what string, err error) {
		fmt.Println(what, errors.Is(err, fs.ErrPermission), strings.ReplaceAll(fmt.Sprint(err), w.dir, "DIR"))
	}
	files, err := filepath.Glob(filepath.Join(w.dir, "*.session"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("%q, %v", files, err)
	}
	for _, step := range []struct {
		path string
		mode fs.FileMode
		back fs.FileMode
	}{{w.dir, 0o500, 0o700}, {w.dir, 0, 0o700}, {files[0], 0, 0o600}} {
		if err := os.Chmod(step.path, step.mode); err != nil {
			return err
		}
		report("Update", st.Update(w.context(), "new", put(2)))
		_, err := w.store().Load(w.context(), "k")
		report("Load", err)
		if err := os.Chmod(step.path, step.back); err != nil {
			return err
		}
	}
	s, err := w.store().Load(w.context(), "k")
	fmt.Println(s != nil && *s == *session(1), err)
	if err := os.Chmod(files[0], 0); err != nil {
		return err
	}
	fmt.Println("login", walletauth.Save(w.context(), w.store(), "k", session(2)))
	s, err = w.store().Load(w.context(), "k")
	fmt.Println(s != nil && *s == *session(2), err)
	return nil
}

func TestMissingRightsAreNamed(t *testing.T) {
	sum := strings.TrimSuffix(filepath.Base(hashed(t, "k")), ".session")
	other := strings.TrimSuffix(filepath.Base(hashed(t, "new")), ".session")
	w := start(t, "denied", openToAll(t))
	// The folder may not be written: a session can still be read.
	w.expect("Update true filestore: lock DIR/" + other + ".lock: permission denied: let this user in: chmod 700 DIR and chmod 600 DIR/" + other + ".lock")
	w.expect("Load false <nil>")
	// The folder may not be entered.
	w.expect("Update true filestore: open DIR: permission denied: let this user in: chmod 700 DIR")
	w.expect("Load true filestore: open DIR: permission denied: let this user in: chmod 700 DIR")
	// The file may not be read: other keys are unaffected.
	w.expect("Update false <nil>")
	w.expect("Load true filestore: read DIR/" + sum + ".session: permission denied: let this user in: chmod 600 DIR/" + sum + ".session")
	w.expect("true <nil>")
	// A login does not have to read it.
	w.expect("login <nil>")
	w.expect("true <nil>")
	must(t, w.wait())
}

// hashed is the session file of key.
func hashed(t *testing.T, key string) string {
	dir := private(t)
	save(t, &filestore.Store{Dir: dir}, key, 1)
	return only(t, dir, ".session")
}
