package body

import (
	"io"
	"net/http"
)

// Peek reads up to limit bytes of the body of resp, and leaves a body from which
// they are read again, and the rest after them. The error is the source's.
func Peek(resp *http.Response, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit))
	resp.Body = &prefixedBody{prefix: data, err: err, ReadCloser: resp.Body}
	return data, err
}

// prefixedBody is a body of which prefix was read already, until err.
type prefixedBody struct {
	prefix []byte
	err    error
	io.ReadCloser
}

func (b *prefixedBody) Read(p []byte) (int, error) {
	if len(b.prefix) > 0 {
		n := copy(p, b.prefix)
		b.prefix = b.prefix[n:]
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.ReadCloser.Read(p)
}

// Close closes the body of a request that is not sent, as a RoundTripper must, and
// returns err.
func Close(req *http.Request, err error) error {
	if req.Body != nil {
		_ = req.Body.Close() // err is what matters
	}
	return err
}
