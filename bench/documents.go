package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// named is a table and the marker of its place in the documents.
type named struct {
	name  string
	table fmt.Stringer
}

func (r *results) tables() []named {
	return []named{
		{"overhead", overheadTable(r.Overhead, 5)},
		{"overhead-6", overheadTable(r.Overhead, 6)},
		{"loopback", loopbackTable(r.Loopback)},
		{"expiry", expiryTable(r.Expiry)},
		{"early", earlyTable(r.Early)},
		{"outage", outageTable(r.Outage)},
		{"crowd", crowdTable(r.Crowd)},
		{"refused", refusedTable(r.Refused)},
		{"memory", memoryTable(r.Memory)},
		{"keys", keysTable(r.Keys)},
		{"rates", rateTable(r.Rates)},
		{"shared", sharedTable(r.Shared)},
		{"machine", r.Machine},
		{"versions", versionsTable()},
	}
}

// write puts the figures into the documents in dir, between their markers, and
// beside them as JSON and pictures.
func (r *results) write(dir string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	img := filepath.Join(dir, "img")
	if err := os.MkdirAll(img, 0o755); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(img, "bench.json"), append(data, '\n'), 0o644),
		r.draw(img),
		fill(filepath.Join(dir, "performance.md"), r.tables()),
		fill(filepath.Join(dir, "scale.md"), r.tables()),
	)
}

// fill replaces what stands between the markers in a document. A table that it
// has no marker for belongs to another; a marker that no table has is a
// mistake.
func fill(path string, tables []named) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(data)
	for _, t := range tables {
		if text, err = replace(text, t); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

func replace(text string, t named) (string, error) {
	begin, end := fmt.Sprintf("<!-- bench: %s -->\n", t.name), "<!-- end -->"
	head, rest, found := strings.Cut(text, begin)
	if !found {
		return text, nil
	}
	_, tail, found := strings.Cut(rest, end)
	if !found {
		return "", fmt.Errorf("the table %q has no end", t.name)
	}
	return head + begin + "\n" + strings.TrimSpace(t.table.String()) + "\n\n" + end + tail, nil
}
