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
	p.X.Tick.Marker, p.Y.Tick.Marker = plainTicks{plot.DefaultTicks{}}, plainTicks{plot.DefaultTicks{}}
	p.Legend.Top, p.Legend.Padding = true, vg.Points(3)
	return p
}

// plainTicks writes 10,000 where the library would write 10000.00 or 1e+04.
type plainTicks struct{ plot.Ticker }

func (t plainTicks) Ticks(low, high float64) []plot.Tick {
	ticks := t.Ticker.Ticks(low, high)
	for i, tick := range ticks {
		if tick.Label != "" {
			ticks[i].Label = number(tick.Value)
		}
	}
	return ticks
}

// ticksAt marks an axis at the values that matter to it.
func ticksAt(values ...float64) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for _, v := range values {
		ticks = append(ticks, plot.Tick{Value: v, Label: number(v)})
	}
	return ticks
}

// save writes p as an SVG. The fonts that the library names are rarely there;
// any without serifs will do.
func save(p *plot.Plot, path string) error {
	canvas := vgsvg.New(width, height)
	margin := vg.Points(8)
	p.Draw(draw.Crop(draw.New(canvas), margin, -2*margin, margin, -margin))
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
		r.drawCrowd(filepath.Join(dir, "badday.svg")),
		r.drawMemory(filepath.Join(dir, "memory.svg")),
		r.drawKeys(filepath.Join(dir, "keys.svg")),
		r.drawShared(filepath.Join(dir, "processes.svg")),
	)
}

// drawExpiry shows each request's latency while a token is replaced.
func (r *results) drawExpiry(path string) error {
	p := newPicture("Each request's latency while the token is replaced",
		"ms since the refresh became due", "latency, ms")
	p.X.Tick.Marker = ticksAt(0, 500, 1_000)
	for _, shown := range []struct {
		who   *peer
		color color.Color
	}{{xoauth2, otherColor}, {ours, oursColor}} {
		for _, e := range r.Early {
			if e.Peer != shown.who.name {
				continue
			}
			l, err := plotter.NewLine(points(e.Samples, func(s sample) (x, y float64) { return s.AtMS, s.LatencyMS }))
			if err != nil {
				return err
			}
			l.Color, l.Width = shown.color, vg.Points(1.8)
			p.Add(l)
			p.Legend.Add(e.Peer, l)
		}
	}
	return save(p, path)
}

// drawCrowd shows how often the token endpoint is called through an outage. The
// scale is logarithmic, so a second without a call counts as one.
func (r *results) drawCrowd(path string) error {
	p := newPicture("Calls per second to an endpoint that is down for a minute, with 10,000 users",
		"s since it went down", "calls in the second")
	p.Y.Scale = plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = ticksAt(0, 20, 40, 60, 80), ticksAt(1, 10, 100, 1_000, 10_000)
	p.Y.Min, p.Y.Max = 1, 30_000
	for _, shown := range []struct {
		who   *peer
		color color.Color
	}{{xoauth2, otherColor}, {ours, oursColor}} {
		for _, c := range r.Crowd {
			if c.Peer != shown.who.name {
				continue
			}
			at := -1
			l, err := plotter.NewLine(points(c.PerSecond, func(calls int) (x, y float64) { at++; return float64(at), float64(max(calls, 1)) }))
			if err != nil {
				return err
			}
			l.Color, l.Width = shown.color, vg.Points(1.8)
			p.Add(l)
			p.Legend.Add(c.Peer, l)
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
	p.X.Min = 0
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

// line is one of a picture's lines.
type line struct {
	name  string
	color color.Color
	xys   plotter.XYs
}

// drawLines draws lines over an axis whose steps are powers, marked where it was
// measured.
func drawLines(path string, p *plot.Plot, lines ...line) error {
	p.X.Scale = plot.LogScale{}
	p.Y.Min = 0
	for _, l := range lines {
		p.X.Tick.Marker = ticksAt(l.measuredAt()...)
		drawn, dots, err := plotter.NewLinePoints(l.xys)
		if err != nil {
			return err
		}
		drawn.Color, drawn.Width = l.color, vg.Points(1.5)
		dots.GlyphStyle = draw.GlyphStyle{Color: l.color, Radius: vg.Points(2.5), Shape: draw.CircleGlyph{}}
		p.Add(drawn, dots)
		if l.name != "" {
			p.Legend.Add(l.name, drawn, dots)
		}
	}
	p.Y.Max *= 1.2 // room for the legend
	return save(p, path)
}

func (l line) measuredAt() []float64 {
	x := make([]float64, len(l.xys))
	for i, xy := range l.xys {
		x[i] = xy.X
	}
	return x
}

func (r *results) drawMemory(path string) error {
	p := newPicture("Sessions in a MemoryStore", "sessions", "Load of a key at random, ns")
	return drawLines(path, p, line{"", oursColor, points(r.Memory, func(m memory) (x, y float64) { return float64(m.Sessions), m.LoadNS })})
}

func (r *results) drawKeys(path string) error {
	p := newPicture("Keys that refresh at the same moment", "keys", "refreshes per second")
	return drawLines(path, p, line{"", oursColor, points(r.Keys, func(k keys) (x, y float64) { return float64(k.Keys), k.PerSecond })})
}

func (r *results) drawShared(path string) error {
	p := newPicture("Processes that share a session when it expires", "processes", "until the last has the new token, ms")
	p.Legend.Left = true
	var lines []line
	for i, name := range []string{"files", "Redis", "PostgreSQL"} {
		of := slices.DeleteFunc(slices.Clone(r.Shared), func(s shared) bool { return s.Store != name })
		if len(of) > 0 {
			xys := points(of, func(s shared) (x, y float64) { return float64(s.Processes), s.LastMS })
			lines = append(lines, line{name, []color.Color{plainColor, otherColor, oursColor}[i], xys})
		}
	}
	return drawLines(path, p, lines...)
}
