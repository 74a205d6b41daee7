package compat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"sync/atomic"
	"testing"
)

// countUploads answers with how many bytes the part "file" had.
func countUploads(t *testing.T, want []byte, whole *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		file, _, err := r.FormFile("file")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		got, err := io.ReadAll(file)
		if err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
			t.Errorf("%d bytes arrived, want %d: %v", len(got), len(want), err)
		}
		whole.Add(1)
	}
}

// pipeForm returns a multipart body that is written while it is sent. The
// boundary is given, as a body that is sent twice must fit its Content-Type.
func pipeForm(boundary string, content []byte) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		form := multipart.NewWriter(w)
		_ = form.SetBoundary(boundary) // it comes from a Writer
		file, err := form.CreateFormFile("file", "statement.pdf")
		if err == nil {
			_, err = io.Copy(file, bytes.NewReader(content)) // ends when the request does: it closes r
		}
		if err == nil {
			err = form.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

func upload(ctx context.Context, url string, content []byte) (*http.Request, error) {
	boundary := multipart.NewWriter(io.Discard).Boundary()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, pipeForm(boundary, content))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "multipart/form-data; boundary="+boundary)
	return req, nil
}

// A pipe can be read once, so there is nothing to send again after a 401. Up
// to MaxReplayBytes, 64 KiB by default, the Transport keeps what it has read
// for that case.
func TestSmallUploadFromAPipe(t *testing.T) {
	testUpload(t, 10<<10, func(*http.Request, []byte) {})
}

// Care: of a longer body the 401 is returned, and the session refreshed for
// the next request. Set GetBody, which makes the body anew; net/http uses it,
// too, for a redirect or a connection that was lost. A larger MaxReplayBytes
// would do as well, at that much memory for each request under way.
func TestLongUploadFromAPipe(t *testing.T) {
	testUpload(t, 1<<20, func(req *http.Request, content []byte) {
		boundary := req.Header.Get("Content-Type")[len("multipart/form-data; boundary="):]
		req.GetBody = func() (io.ReadCloser, error) { return pipeForm(boundary, content), nil }
	})
}

func testUpload(t *testing.T, size int, prepare func(*http.Request, []byte)) {
	api := newStandIn(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	var whole atomic.Int32
	api.Handle("POST /upload", countUploads(t, content, &whole))
	client := &http.Client{Transport: api.transport()}

	api.outlive(t, func(ctx context.Context) error {
		req, err := upload(ctx, api.URL+"/upload", content)
		if err != nil {
			return err
		}
		prepare(req, content)
		return done(client.Do(req))
	})
	if n := whole.Load(); n != 5 {
		t.Errorf("%d whole uploads arrived, want 5", n)
	}
}

// Without either, the first call after a revocation fails with the 401, and
// the next one works.
func TestLongUploadFromAPipeThatCannotBeSentAgain(t *testing.T) {
	api := newStandIn(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var whole atomic.Int32
	api.Handle("POST /upload", countUploads(t, content, &whole))
	client := &http.Client{Transport: api.transport()}

	api.RevokeAccess(user)
	var outcome []int
	for range 2 {
		req, err := upload(t.Context(), api.URL+"/upload", content)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		outcome = append(outcome, resp.StatusCode)
	}
	if fmt.Sprint(outcome) != "[401 200]" || whole.Load() != 1 || api.Stats().Refreshes != 1 {
		t.Errorf("%v, %d uploads, %d refreshes; want [401 200], 1, 1", outcome, whole.Load(), api.Stats().Refreshes)
	}
}
