// Command picture draws the README's picture: it types into a real shell in a
// pseudo-terminal, against the stand-in, and writes what the screen shows then
// as an SVG. Run it in cmd/walletauth:
//
//	go run ./internal/picture >session.svg
package main

import (
	"errors"
	"fmt"
	"html"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/walletauth/walletauth/walletauthtest"
)

// The session. Each step is typed once the screen shows what it waits for.
var session = []struct{ await, types string }{
	{`\$ $`, "walletauth login --email ada@example.com --project my-project --api $API --key-file ~/.walletkit.key\n"},
	{`Code: $`, walletauthtest.VerificationCode + "\n"},
	{`\$ $`, "walletauth status\n"},
	{`\$ $`, `walletauth request POST /wallets -d '{"network":"Base","name":"savings","control_mode":"user"}'` + "\n"},
	{`\$ $`, `walletauth exec -v -- sh -c 'curl -s $WALLETKIT_BASE_URL/wallets | head -c 60'; echo ...` + "\n"},
	{`\$ $`, "walletauth doctor\n"},
	{`\$ $`, "walletauth logout\n"},
	{`\$ $`, "walletauth token; echo exit code $?\n"},
	{`exit code \d+\r\n\$ $`, "exit\n"},
}

const columns, hang = 112, time.Minute

func main() {
	log.SetFlags(0)
	screen, err := record()
	if err != nil {
		log.Fatal(err)
	}
	if err := draw(os.Stdout, screen); err != nil {
		log.Fatal(err)
	}
}

// record returns all that the terminal was sent.
func record() (string, error) {
	home, err := os.MkdirTemp("", "picture")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(home) }()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(home, "walletauth"), ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	api := walletauthtest.NewServer(walletauthtest.Config{ProjectID: "my-project"})
	defer api.Close()
	shell := exec.Command("bash", "--norc", "--noprofile", "--noediting")
	shell.Dir = home
	shell.Env = []string{
		"HOME=" + home, "PATH=" + home + ":" + os.Getenv("PATH"), "API=" + api.URL,
		"TERM=xterm", "PS1=$ ", "LANG=C.UTF-8",
	}
	terminal, err := pty.StartWithSize(shell, &pty.Winsize{Cols: columns, Rows: 60})
	if err != nil {
		return "", err
	}
	defer func() { _ = terminal.Close() }()
	screen, err := typeSession(terminal)
	return strings.ReplaceAll(screen, home, "/home/ada"), errors.Join(err, shell.Wait())
}

func typeSession(terminal *os.File) (string, error) {
	var mu sync.Mutex // guards seen
	var seen strings.Builder
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 4096)
		for {
			n, err := terminal.Read(buf)
			mu.Lock()
			seen.Write(buf[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	shown := func() string {
		mu.Lock()
		defer mu.Unlock()
		return seen.String()
	}
	from := 0 // what was there when the last step was typed is not its answer
	for _, step := range session {
		await := regexp.MustCompile(step.await)
		for deadline := time.Now().Add(hang); !await.MatchString(shown()[from:]); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				return "", fmt.Errorf("never saw %q:\n%s", step.await, shown())
			}
		}
		from = len(shown())
		if _, err := io.WriteString(terminal, step.types); err != nil {
			return "", err
		}
	}
	<-ended
	return shown(), nil
}

// cell is a character of the screen and its colour, as an SGR number.
type cell struct {
	char   rune
	colour string
}

var control = regexp.MustCompile(`^\x1b\[([0-9;?]*)([A-Za-z])`)

// render lays out what a terminal was sent. It knows what the session uses:
// colours, carriage return, and erasing to the end of a line.
func render(sent string) (lines [][]cell) {
	var line []cell
	column, colour := 0, ""
	for sent != "" {
		if m := control.FindStringSubmatch(sent); m != nil {
			switch m[2] {
			case "m":
				colour = m[1]
			case "K":
				line = line[:column]
			}
			sent = sent[len(m[0]):]
			continue
		}
		char := []rune(sent)[0]
		sent = sent[len(string(char)):]
		switch char {
		case '\r':
			column = 0
		case '\n':
			lines, line, column = append(lines, line), nil, 0
		default:
			if column == columns {
				lines, line, column = append(lines, line), nil, 0
			}
			line = append(line[:column], cell{char, colour})
			column++
		}
	}
	return append(lines, line)
}

const charWidth, lineHeight, margin = 7.8, 18, 16

var colours = map[string]string{"31": "#ff7b72", "32": "#7ee787", "33": "#e3b341"}

func draw(w io.Writer, sent string) error {
	var b strings.Builder
	lines := render(strings.TrimSuffix(sent[:strings.LastIndex(sent, "$ exit")], "\r\n"))
	width, height := columns*charWidth+2*margin, len(lines)*lineHeight+2*margin
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%d" viewBox="0 0 %.0f %d" role="img">`+"\n", width, height, width, height)
	b.WriteString("<title>A terminal session of walletauth: login, status, request, exec, doctor, logout</title>\n")
	b.WriteString(`<rect width="100%" height="100%" rx="8" fill="#161b22"/>` + "\n")
	b.WriteString(`<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace" font-size="13" fill="#c9d1d9" xml:space="preserve">` + "\n")
	for i, line := range lines {
		y := margin + lineHeight*i + 13
		fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`+"\n", margin, y, spans(line))
	}
	b.WriteString("</g>\n</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func text(line []cell) string {
	var b strings.Builder
	for _, c := range line {
		b.WriteRune(c.char)
	}
	return b.String()
}

// spans is a line with what is typed after a prompt in bold, and its colours.
func spans(line []cell) string {
	plain := text(line)
	if typed, ok := strings.CutPrefix(plain, "$ "); ok {
		return `<tspan fill="#7d8590">$ </tspan><tspan font-weight="bold" fill="#ffffff">` + html.EscapeString(typed) + `</tspan>`
	}
	var b strings.Builder
	for len(line) > 0 {
		n := 1
		for n < len(line) && line[n].colour == line[0].colour {
			n++
		}
		part := html.EscapeString(text(line[:n]))
		if fill := colours[line[0].colour]; fill != "" {
			part = `<tspan fill="` + fill + `">` + part + `</tspan>`
		}
		b.WriteString(part)
		line = line[n:]
	}
	return b.String()
}
