package load_test

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/walletauthtest"
)

// standIn is the process that stands in for the API.
type standIn struct {
	URL      string
	Sessions []*walletauth.Session

	input io.Closer
	reply *json.Decoder
	cmd   *exec.Cmd
}

// seen is what it has seen.
type seen struct {
	walletauthtest.Stats
	Violations []string
	Refreshed  []int // how often each session, in their order
}

func startStandIn(t *testing.T, sessions int, ttl time.Duration) *standIn {
	t.Helper()
	program := filepath.Join(t.TempDir(), "standin.exe")
	if out, err := exec.Command("go", "build", "-o", program, "./standin").CombinedOutput(); err != nil {
		t.Fatalf("build the stand-in: %v\n%s", err, out)
	}
	s := &standIn{cmd: exec.Command(program, "-sessions", strconv.Itoa(sessions), "-ttl", ttl.String())}
	s.cmd.Stderr = os.Stderr
	input, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill(); _ = s.cmd.Wait() }) // unless it has ended
	s.input, s.reply = input, json.NewDecoder(output)
	if err := s.reply.Decode(s); err != nil {
		t.Fatal(err)
	}
	return s
}

// end returns what the stand-in has seen once it has ended.
func (s *standIn) end(t *testing.T) (result seen) {
	t.Helper()
	if err := s.input.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.reply.Decode(&result); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
	return result
}
