package main

import (
	"fmt"
	"math"
	"strings"
)

// table is what the documents show of a scenario.
type table struct {
	Columns []string
	Rows    [][]string
}

func (t *table) add(cells ...string) { t.Rows = append(t.Rows, cells) }

// String is the table in Markdown, figures to the right. The row of walletauth
// is set in bold.
func (t table) String() string {
	var b strings.Builder
	line := func(cells []string, mark string) {
		for _, cell := range cells {
			fmt.Fprintf(&b, "| %s%s%s ", mark, cell, mark)
		}
		b.WriteString("|\n")
	}
	line(t.Columns, "")
	b.WriteString("| :--- " + strings.Repeat("| ---: ", len(t.Columns)-1) + "|\n")
	for _, row := range t.Rows {
		mark := ""
		if row[0] == ours.name {
			mark = "**"
		}
		line(row, mark)
	}
	return b.String()
}

// number writes a figure with the digits that mean something, and thousands
// apart.
func number[T int | int64 | float64](value T) string {
	v := float64(value)
	switch {
	case v == math.Trunc(v) || math.Abs(v) >= 100:
		return thousands(int64(math.Round(v)))
	case math.Abs(v) >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	default:
		return strings.TrimSuffix(fmt.Sprintf("%.2f", v), ".00")
	}
}

func thousands(n int64) string {
	if n < 0 {
		return "-" + thousands(-n)
	}
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

func ratio(v float64) string { return fmt.Sprintf("%.2f", v) }

// outOf is how many of all, for columns where all would be well.
func outOf(n, all int) string { return number(n) + " of " + number(all) }
