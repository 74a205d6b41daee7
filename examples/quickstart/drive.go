package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/walletauth/walletauth"
	"github.com/walletauth/walletauth/examples/internal/screen"
)

// driver is a run: workers that call the API through one client.
type driver struct {
	*target
	client *http.Client
	screen *screen.Screen
	tally  tally

	refreshed chan struct{} // for disturb; holds at most one
}

// drive runs target for a while and returns the exit status.
func drive(ctx context.Context, target *target, duration time.Duration, shown *screen.Screen, stderr io.Writer) int {
	d := &driver{target: target, screen: shown, refreshed: make(chan struct{}, 1)}
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.MaxIdleConnsPerHost = target.workers
	transport := target.transport(meter{base}, d.onEvent)
	d.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	defer d.client.CloseIdleConnections()

	d.run(ctx, duration)
	err := shutdown(ctx, transport)
	shown.Finish(d.tally.table())
	if err != nil {
		fmt.Fprintln(stderr, "quickstart:", err)
	}
	if err != nil || d.tally.failed() {
		return 1
	}
	return 0
}

// run returns when the time is up or ctx has ended, and every request that was
// sent has come back.
func (d *driver) run(ctx context.Context, duration time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var all sync.WaitGroup
	for range d.workers {
		all.Go(func() { d.work(ctx) })
	}
	if d.disturb != nil {
		all.Go(func() { d.disturb(ctx, d.refreshed, d.screen.Say) })
	}
	all.Go(func() { d.screen.ShowProgress(ctx, d.tally.progress) })
	all.Wait()
}

// shutdown stores what is not stored yet, also after a Ctrl-C. Three seconds
// are plenty for a file.
func shutdown(ctx context.Context, transport *walletauth.Transport) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	return transport.Shutdown(ctx)
}

func (d *driver) work(ctx context.Context) {
	for n := 1; ctx.Err() == nil; n++ {
		method, body := http.MethodGet, ""
		if d.writeEvery > 0 && n%d.writeEvery == 0 {
			method, body = http.MethodPost, `{"network":"Ethereum","name":"quickstart","control_mode":"developer"}`
		}
		if err := d.call(ctx, method, body); err != nil && d.tally.failures() <= 10 {
			d.screen.Say(fmt.Sprintf("%s /wallets failed: %v", method, err))
		}
		sleep(ctx, d.pause)
	}
}

// call sends a request and counts it. The end of the run does not end a request
// that is under way: it would look like a failure and be none.
func (d *driver) call(ctx context.Context, method, body string) error {
	ctx, trip := withTrip(context.WithoutCancel(ctx))
	began := time.Now()
	resp, err := d.send(ctx, method, body)
	held := time.Since(began) - trip.inBase
	if err == nil {
		err = readAll(resp)
	}
	d.tally.add(time.Since(began), held, err)
	return err
}

func (d *driver) send(ctx context.Context, method, body string) (*http.Response, error) {
	url := strings.TrimSuffix(d.baseURL, "/") + "/wallets"
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	return d.client.Do(req)
}

func readAll(resp *http.Response) error {
	defer resp.Body.Close()
	_, err := io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("status %s", resp.Status)
	}
	return err
}

// onEvent counts what the transport reports and shows it.
func (d *driver) onEvent(_ context.Context, e walletauth.Event) {
	d.tally.event(e.Type)
	d.screen.Say(describe(e))
	if e.Type == walletauth.RefreshSucceeded {
		select {
		case d.refreshed <- struct{}{}:
		default: // one is waiting, which says the same
		}
	}
}

// describe is an event in a line.
func describe(e walletauth.Event) string {
	var notes []string
	if e.Reason != "" {
		notes = append(notes, string(e.Reason))
	}
	if e.Attempts > 1 {
		notes = append(notes, fmt.Sprintf("%d attempts", e.Attempts))
	}
	if e.Type != walletauth.RefreshBegan && e.Duration > 0 {
		notes = append(notes, short(e.Duration))
	}
	if e.Err != nil {
		notes = append(notes, e.Err.Error())
	}
	return strings.TrimSpace(fmt.Sprintf("%-18s  %s", e.Type, strings.Join(notes, ", ")))
}
