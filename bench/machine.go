package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// machine is where and how a run was made. It says nothing that would identify
// a computer.
type machine struct {
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	System  string `json:"system"`
	Go      string `json:"go"`
	Date    string `json:"date"`
	Command string `json:"command"`
}

func thisMachine(quick bool) machine {
	m := machine{
		CPU: cpuModel(), Cores: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH,
		Go: runtime.Version(), Date: time.Now().UTC().Format(time.DateOnly), Command: "go run . -out ../docs",
	}
	if quick {
		m.Command += " -quick"
	}
	return m
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %s, %s, %s, by `%s`.\n", m.CPU, m.Cores, m.System, m.Go, m.Date, m.Command)
}

// cpuModel is only known on Linux.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, model, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return "unknown CPU"
}

// versionsTable says which versions of the peers were compiled in.
func versionsTable() table {
	t := table{Columns: []string{"", "module", "version"}}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return t
	}
	versions := make(map[string]string)
	for _, m := range info.Deps {
		versions[m.Path] = m.Version
	}
	for _, p := range refreshing {
		if p != ours {
			t.add(p.name, "`"+p.module+"`", versions[p.module])
		}
	}
	return t
}
