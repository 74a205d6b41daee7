//go:build linux

package remotetest

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Signal signals the server and its children, as those of PostgreSQL are
// sessions of their own. It does not wait for the end of any.
func (s *Service) Signal(signal syscall.Signal) {
	also := children(s.cmd.Process.Pid)
	_ = s.cmd.Process.Signal(signal) // it may have ended, and so may they
	for _, pid := range also {
		_ = syscall.Kill(pid, signal)
	}
}

// Ended reports whether the server has ended, by itself for example.
func (s *Service) Ended() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func children(parent int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		// The fields after the name, which may hold anything: state, parent.
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		if len(fields) < 2 || string(fields[1]) != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
