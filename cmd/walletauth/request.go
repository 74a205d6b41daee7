package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/walletauth/walletauth/cmd/walletauth/internal/proxy"
)

type requestOptions struct {
	data    string
	headers []string
	include bool
}

func (a *app) requestCommand() *cobra.Command {
	var o requestOptions
	cmd := &cobra.Command{
		Use:   "request METHOD PATH [-d DATA|@FILE|@-]",
		Short: "Send one request to WalletKit and print the answer",
		Long: `Send one request to the profile's API with the session's token and print the
answer's body; on a terminal, JSON is indented. The exit code is 1 if WalletKit
answers anything but success.`,
		Example: `  walletauth request GET /wallets
  walletauth request POST /wallets -d '{"network":"Base","name":"savings","control_mode":"user"}'
  walletauth request POST /wallets -d @wallet.json`,
		Args: exactArgs(2),
	}
	cmd.Flags().StringVarP(&o.data, "data", "d", "", "body of the request: JSON, @`FILE`, or @- for standard input")
	cmd.Flags().StringArrayVarP(&o.headers, "header", "H", nil, "add a header, `NAME:VALUE`")
	cmd.Flags().BoolVarP(&o.include, "include", "i", false, "print the status and headers of the answer, too")
	cmd.RunE = interruptible(func(cmd *cobra.Command, args []string) error {
		req, err := a.newRequest(cmd, args[0], args[1], o)
		if err != nil {
			return err
		}
		return a.use(cmd.Context(), func(ctx context.Context, s *session) error { return a.request(ctx, s, req, o) })
	})
	return cmd
}

// newRequest returns a request whose URL is still the path alone.
func (a *app) newRequest(cmd *cobra.Command, method, path string, o requestOptions) (*http.Request, error) {
	if !strings.HasPrefix(path, "/") {
		return nil, wrongUse(cmd, fmt.Errorf("%q is no path of the API: it begins with a slash, as /wallets", path))
	}
	body, err := a.readData(cmd, o.data)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(cmd.Context(), strings.ToUpper(method), path, bytes.NewReader(body))
	if err != nil {
		return nil, wrongUse(cmd, fmt.Errorf("%s %s is no request: %s", method, path, plain(err)))
	}
	if cmd.Flags().Changed("data") {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, header := range o.headers {
		name, value, ok := strings.Cut(header, ":")
		if !ok {
			return nil, wrongUse(cmd, fmt.Errorf("the header %q is not NAME:VALUE", name))
		}
		if proxy.IsCredential(name) {
			return nil, wrongUse(cmd, fmt.Errorf("the header %s is set by the session: choose another --profile instead", name))
		}
		req.Header.Set(name, strings.TrimSpace(value))
	}
	return req, nil
}

func (a *app) readData(cmd *cobra.Command, data string) ([]byte, error) {
	file, isFile := strings.CutPrefix(data, "@")
	switch {
	case !isFile:
		return []byte(data), nil
	case file == "-":
		return io.ReadAll(a.in)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, wrongUse(cmd, fmt.Errorf("the body cannot be read: %w", err))
	}
	return body, nil
}

func (a *app) request(ctx context.Context, s *session, req *http.Request, o requestOptions) error {
	path := req.URL.RequestURI()
	target, err := req.URL.Parse(s.API + path)
	if err != nil {
		return err
	}
	if why := proxy.Refused(target); why != "" {
		return failed(exitWrongUse, "%s", why)
	}
	req.URL, req.Host = target, target.Host
	if _, err := s.current(ctx, a.err); err != nil {
		return err
	}
	var resp *http.Response
	err = a.err.wait(ctx, "Waiting for "+s.host(), func(context.Context) (err error) {
		resp, err = s.transport.RoundTrip(req)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if o.include {
		a.printHead(resp)
	}
	if err := a.printBody(resp); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return failed(exitFailed, "%s %s: WalletKit answered %s", req.Method, printable(target.EscapedPath()), printable(resp.Status))
	}
	return nil
}

func (a *app) printHead(resp *http.Response) {
	_, _ = fmt.Fprintf(a.out, "%s %s\n", resp.Proto, printable(resp.Status))
	names := make([]string, 0, len(resp.Header))
	for name := range resp.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		_, _ = fmt.Fprintf(a.out, "%s: %s\n", name, printable(strings.Join(resp.Header[name], ", ")))
	}
	_, _ = fmt.Fprintln(a.out)
}

// printBody streams the answer. For a person JSON is indented, and what is not
// JSON may not steer the terminal.
func (a *app) printBody(resp *http.Response) error {
	if !isTerminal(a.out) {
		_, err := io.Copy(a.out, resp.Body)
		return err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var indented bytes.Buffer
	if json.Indent(&indented, bytes.TrimSpace(body), "", "  ") != nil {
		_, err = io.WriteString(a.out, printable(string(body)))
		return err
	}
	_, err = fmt.Fprintln(a.out, indented.String())
	return err
}
