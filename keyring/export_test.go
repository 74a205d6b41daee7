package keyring

import "time"

// SetCallTimeout is called before the first use.
func SetCallTimeout(d time.Duration) { callTimeout = d }
