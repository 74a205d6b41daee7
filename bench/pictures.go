package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The colours of all pictures, as they are drawn. walletauth has one of its own,
// which nothing else has.
var (
	paper     = color.NRGBA{255, 255, 255, 255}
	ink       = color.NRGBA{66, 74, 83, 255}
	faint     = color.NRGBA{208, 215, 222, 255}
	oursColor = color.NRGBA{9, 105, 218, 255}
	peerColor = color.NRGBA{188, 76, 0, 255}
	plain     = color.NRGBA{145, 152, 161, 255}
	teal      = color.NRGBA{27, 124, 131, 255}
	purple    = color.NRGBA{130, 80, 223, 255}
)

// inTheDark is what they become for a reader who prefers dark pages.
var inTheDark = map[color.NRGBA]string{
	paper: "#0D1117", ink: "#B1BAC4", faint: "#30363D", oursColor: "#4493F8",
	peerColor: "#F0883E", plain: "#656C76", teal: "#39C5CF", purple: "#AB7DF8",
}

// darkStyle is a style sheet that exchanges the colours. The pictures keep those
// of paper where style sheets are not known.
func darkStyle() string {
	var rules []string
	for from, to := range inTheDark {
		for _, property := range []string{"fill", "stroke"} {
			drawn := fmt.Sprintf("%s:#%02X%02X%02X", property, from.R, from.G, from.B)
			rules = append(rules, fmt.Sprintf("[style*=\"%s\"]{%s:%s!important}", drawn, property, to))
		}
	}
	slices.Sort(rules)
	return "<style>@media (prefers-color-scheme:dark){\n" + strings.Join(rules, "\n") + "\n}</style>\n"
}

const width, height = 18 * vg.Centimeter, 8 * vg.Centimeter

// newPicture returns one whose title says what it shows, and what is better.
func newPicture(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = nil // save draws it, to the very edge
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = vg.Points(10)
	for _, style := range []*draw.TextStyle{&p.Title.TextStyle, &p.Legend.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
		style.Color, style.Font = ink, fontOf(10)
	}
	p.Title.TextStyle.Font = fontOf(12)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.LineStyle.Color, axis.Tick.LineStyle.Color = ink, ink
		axis.Padding = vg.Points(6)
		axis.Label.Padding = vg.Points(4)
		axis.Tick.Marker = plainTicks{plot.DefaultTicks{}}
	}
	p.Legend.Top, p.Legend.Padding = true, vg.Points(3)
	return p
}

func fontOf(points float64) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: vg.Points(points)}
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

// textTag is a text in an SVG: its attributes, the size among them, and the text.
var textTag = regexp.MustCompile(`(<text [^>]*font-size:(\d+)px[^>]*)>([^<]*)<`)

// withWidths gives each text the width that it was placed with. The font that
// the library names is rarely there, and others are wider.
func withWidths(svg string) string {
	return textTag.ReplaceAllStringFunc(svg, func(tag string) string {
		part := textTag.FindStringSubmatch(tag)
		size, _ := strconv.ParseFloat(part[2], 64) // digits
		width, _, _ := plot.DefaultTextHandler.Box(part[3], fontOf(size))
		return fmt.Sprintf("%s textLength=\"%.1f\" lengthAdjust=\"spacingAndGlyphs\">%s<", part[1], width.Points(), part[3])
	})
}

// save writes p as an SVG.
func save(p *plot.Plot, path string) error {
	canvas := vgsvg.New(width, height)
	whole := draw.New(canvas)
	whole.SetColor(paper)
	whole.Fill(whole.Rectangle.Path())
	const margin, right = 10, 28 // the last label of an axis is centred on its end
	p.Draw(draw.Crop(whole, vg.Points(margin), -vg.Points(right), vg.Points(margin), -vg.Points(margin)))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return err
	}
	svg := strings.ReplaceAll(b.String(), "font-family:Liberation Sans", "font-family:Liberation Sans,Arial,Helvetica,sans-serif")
	svg = strings.Replace(withWidths(svg), "<g ", darkStyle()+"<g ", 1)
	return os.WriteFile(path, []byte(svg), 0o644)
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

// compared are the two that a picture sets beside each other, in the order in
// which they are drawn.
var compared = []struct {
	who   *peer
	color color.Color
}{{xoauth2, peerColor}, {ours, oursColor}}

// oneIn is how many requests there are to a dot: all of them would be a line.
const oneIn = 10

// drawExpiry shows single requests while a token is replaced, each as a dot.
func (r *results) drawExpiry(path string) error {
	p := newPicture("How long requests take while the token is replaced: lower is better",
		fmt.Sprintf("ms since the refresh began; each dot is a request, one in %d is shown", oneIn), "latency, ms")
	p.X.Tick.Marker, p.Y.Tick.Marker = ticksAt(-500, 0, 500, 1_000, 1_500), ticksAt(0, 100, 200, 300, 400, 500)
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = -500, 1_500, 0, 510
	for _, shown := range compared {
		for _, e := range r.Early {
			if e.Peer != shown.who.name {
				continue
			}
			var some []sample
			for i := 0; i < len(e.Samples); i += oneIn {
				some = append(some, e.Samples[i])
			}
			dots, err := plotter.NewScatter(points(some, func(s sample) (x, y float64) { return s.AtMS, s.LatencyMS }))
			if err != nil {
				return err
			}
			dots.GlyphStyle = draw.GlyphStyle{Color: shown.color, Radius: vg.Points(1.6), Shape: draw.CircleGlyph{}}
			p.Add(dots)
			p.Legend.Add(fmt.Sprintf("%s: %s requests wait", e.Peer, outOf(e.Waited, e.Requests)), bigger{dots})
		}
	}
	return save(p, path)
}

// bigger is a dot of a size that can be seen in a legend.
type bigger struct{ *plotter.Scatter }

func (b bigger) Thumbnail(c *draw.Canvas) {
	style := b.GlyphStyle
	style.Radius = vg.Points(3)
	c.DrawGlyph(style, c.Center())
}

// drawCrowd shows how often the token endpoint is called through an outage. The
// scale is logarithmic, so a second without a call counts as one.
func (r *results) drawCrowd(path string) error {
	p := newPicture("Calls to a token endpoint that is down for a minute: fewer is better",
		"s since it went down; 10,000 users ask once a second", "calls per second")
	p.Y.Scale = plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = ticksAt(0, 20, 40, 60, 80), ticksAt(1, 10, 100, 1_000, 10_000, 100_000)
	p.Y.Min, p.Y.Max = 1, 100_000 // with room for the legend
	for _, shown := range compared {
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
			p.Legend.Add(fmt.Sprintf("%s: %s calls while it is down", c.Peer, number(c.Calls)), l)
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

// drawOverhead shows what a request costs as bars with their numbers, the
// cheapest on top.
func (r *results) drawOverhead(path string) error {
	bars := slices.DeleteFunc(slices.Clone(r.Overhead), func(o overhead) bool { return o.load != loads[0] })
	slices.SortFunc(bars, func(a, b overhead) int { return -cmp.Compare(a.Nanoseconds, b.Nanoseconds) })
	p := newPicture("Processor time of a request through each transport: lower is better", "ns", "")
	var names, numbers []string
	for i, o := range bars {
		bar, err := plotter.NewBarChart(plotter.Values{o.Nanoseconds}, vg.Points(13))
		if err != nil {
			return err
		}
		bar.Horizontal, bar.XMin, bar.LineStyle.Width = true, float64(i), 0
		bar.Color = plain
		if o.Peer == ours.name {
			bar.Color = oursColor
		}
		p.Add(bar)
		names, numbers = append(names, o.Peer), append(numbers, number(o.Nanoseconds))
	}
	at := -1.0
	labels, err := plotter.NewLabels(plotter.XYLabels{
		XYs:    points(bars, func(o overhead) (x, y float64) { at++; return o.Nanoseconds, at }),
		Labels: numbers,
	})
	if err != nil {
		return err
	}
	labels.Offset.X = vg.Points(4)
	for i := range labels.TextStyle {
		labels.TextStyle[i] = text.Style{Color: ink, Font: fontOf(10), YAlign: text.YCenter, Handler: plot.DefaultTextHandler}
	}
	p.Add(labels)
	p.NominalY(names...)
	p.X.Min, p.Y.Min, p.Y.Max = 0, -0.5, float64(len(bars))-0.5
	p.X.Padding, p.Y.Padding = vg.Points(6), 0
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
	p.Y.Max *= 1.1
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
	p := newPicture("Loading a session from a MemoryStore, one at random: lower is better", "sessions in the store", "ns per Load")
	return drawLines(path, p, line{"", oursColor, points(r.Memory, func(m memory) (x, y float64) { return float64(m.Sessions), m.LoadNS })})
}

func (r *results) drawKeys(path string) error {
	p := newPicture("Keys that all refresh at the same moment: higher is better", "keys", "refreshes per second")
	return drawLines(path, p, line{"", oursColor, points(r.Keys, func(k keys) (x, y float64) { return float64(k.Keys), k.PerSecond })})
}

func (r *results) drawShared(path string) error {
	p := newPicture("Processes that share a session when it expires, until the last has the next: lower is better",
		"processes", "ms, of which the refresh takes 50")
	p.Legend.Left = true
	var lines []line
	for i, k := range kinds {
		of := slices.DeleteFunc(slices.Clone(r.Shared), func(s shared) bool { return s.Store != k.name })
		if len(of) > 0 {
			xys := points(of, func(s shared) (x, y float64) { return float64(s.Processes), s.LastMS })
			lines = append(lines, line{k.name, []color.Color{plain, teal, purple, peerColor, ink}[i%5], xys})
		}
	}
	return drawLines(path, p, lines...)
}
