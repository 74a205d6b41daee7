package main

import (
	"bytes"
	"cmp"
	"errors"
	"image/color"
	"os"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The background is transparent, so the colours are those that can be told from
// white and from black alike.
var (
	inkColor   = color.NRGBA{118, 125, 134, 255}
	oursColor  = color.NRGBA{47, 129, 247, 255}
	otherColor = color.NRGBA{210, 120, 50, 255}
	plainColor = color.NRGBA{130, 138, 147, 150}
)

const width, height = 18 * vg.Centimeter, 8 * vg.Centimeter

func newPicture(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = vg.Points(8)
	for _, style := range []*draw.TextStyle{&p.Title.TextStyle, &p.Legend.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
		style.Color = inkColor
		style.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(10)}
	}
	p.Title.TextStyle.Font.Size = vg.Points(12)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.LineStyle.Color, axis.Tick.LineStyle.Color = inkColor, inkColor
	}
	p.Legend.Top, p.Legend.Padding = true, vg.Points(3)
	return p
}

// save writes p as an SVG. The fonts that the library names are rarely there;
// any without serifs will do.
func save(p *plot.Plot, path string) error {
	canvas := vgsvg.New(width, height)
	p.Draw(draw.New(canvas))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return err
	}
	svg := bytes.ReplaceAll(b.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,sans-serif"))
	return os.WriteFile(path, svg, 0o644)
}

// draw makes all pictures.
func (r *results) draw(dir string) error {
	return errors.Join(
		r.drawExpiry(filepath.Join(dir, "expiry.svg")),
		r.drawOverhead(filepath.Join(dir, "overhead.svg")),
	)
}

// drawExpiry shows each request's latency while a token is replaced.
func (r *results) drawExpiry(path string) error {
	p := newPicture("Latency while a token is replaced by a refresh that takes 500 ms",
		"ms since the refresh became due", "latency, ms")
	for _, shown := range []struct {
		who   *peer
		color color.Color
	}{{xoauth2, otherColor}, {ours, oursColor}} {
		for _, e := range r.Early {
			if e.Peer != shown.who.name {
				continue
			}
			dots, err := plotter.NewScatter(points(e.Samples, func(s sample) (x, y float64) { return s.AtMS, s.LatencyMS }))
			if err != nil {
				return err
			}
			dots.GlyphStyle = draw.GlyphStyle{Color: shown.color, Radius: vg.Points(1.6), Shape: draw.CircleGlyph{}}
			p.Add(dots)
			p.Legend.Add(e.Peer, dots)
		}
	}
	return save(p, path)
}

func points[T any](from []T, xy func(T) (x, y float64)) plotter.XYs {
	out := make(plotter.XYs, len(from))
	for i, v := range from {
		out[i].X, out[i].Y = xy(v)
	}
	return out
}

// drawOverhead shows what a request costs as bars, the cheapest on top.
func (r *results) drawOverhead(path string) error {
	var bars []overhead
	for _, o := range r.Overhead {
		if o.load == loads[0] {
			bars = append(bars, o)
		}
	}
	slices.SortFunc(bars, func(a, b overhead) int { return -cmp.Compare(a.Nanoseconds, b.Nanoseconds) })
	p := newPicture("What a transport adds to a request", "ns", "")
	var names []string
	for i, o := range bars {
		bar, err := plotter.NewBarChart(plotter.Values{o.Nanoseconds}, vg.Points(13))
		if err != nil {
			return err
		}
		bar.Horizontal, bar.XMin, bar.LineStyle.Width = true, float64(i), 0
		bar.Color = plainColor
		if o.Peer == ours.name {
			bar.Color = oursColor
		}
		p.Add(bar)
		names = append(names, o.Peer)
	}
	p.NominalY(names...)
	return save(p, path)
}
