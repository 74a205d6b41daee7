package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"
	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/cmd/walletauth/internal/proxy"
)

func (a *app) proxyCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "proxy [--listen ADDRESS]",
		Short: "Serve WalletKit on this machine, the token added, until Ctrl-C",
		Long: `Serve WalletKit's API at an address of this machine that adds the session's
token. The address is printed on standard output and holds a secret that is new
in every run: who knows it acts as the user. A line for each request goes to
standard error.

It is for this user alone. It listens at loopback addresses or at a socket that
only this user can open, and refuses web pages and other hosts' names.`,
		Example: `  walletauth proxy
  walletauth proxy --listen 127.0.0.1:8780
  walletauth proxy --listen unix:/run/user/1000/walletkit.sock`,
		Args: exactArgs(0),
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "`ADDRESS` to listen at: 127.0.0.1:PORT or unix:PATH")
	cmd.RunE = interruptible(func(cmd *cobra.Command, _ []string) error {
		return a.use(cmd.Context(), func(ctx context.Context, s *session) error {
			if _, err := s.current(ctx, a.err); err != nil {
				return err
			}
			return a.serve(ctx, s, listen)
		})
	})
	return cmd
}

// grace is how long requests under way may take at the end.
const grace = 2 * time.Second

func (a *app) serve(ctx context.Context, s *session, address string) error {
	p, l, err := a.listen(s, address, true)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.out, p.URL()); err != nil {
		return errors.Join(err, l.Close())
	}
	return p.Serve(ctx, l, grace) // nil after Ctrl-C, which is how it ends
}

// listen opens a proxy for s. With logged, a line for each request goes to
// standard error.
func (a *app) listen(s *session, address string, logged bool) (*proxy.Proxy, net.Listener, error) {
	api, err := url.Parse(s.API)
	if err != nil {
		return nil, nil, err
	}
	l, err := proxy.Listen(address)
	if err != nil {
		return nil, nil, err
	}
	config := proxy.Config{API: api, Transport: s.transport, Explain: a.explainToProgram}
	if logged {
		config.Log = a.logRequest
	}
	return proxy.New(config, l), l, nil
}

// explainToProgram answers a program as the API might: 401 where it takes a
// login, 502 where trying later may help.
func (a *app) explainToProgram(err error) (status int, sentence string) {
	_, sentence = explain(err, a.profileName)
	if errors.Is(err, walletauth.ErrNoSession) || errors.Is(err, walletauth.ErrSessionExpired) {
		return http.StatusUnauthorized, sentence
	}
	return http.StatusBadGateway, sentence
}

func (a *app) logRequest(e proxy.Entry) {
	what := printable(e.Method) + " " + printable(e.Path)
	if e.Refused != "" {
		_, _ = fmt.Fprintf(a.err, "%s %d %s: %s\n", time.Now().Format(time.TimeOnly), e.Status, what, e.Refused)
		return
	}
	_, _ = fmt.Fprintf(a.err, "%s %d %s %d bytes %s\n", time.Now().Format(time.TimeOnly), e.Status, what, e.Bytes, e.Duration.Round(time.Millisecond))
}
