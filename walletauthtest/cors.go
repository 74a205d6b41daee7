package walletauthtest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// corsHeaders are what the API's requests carry beyond what any page may send.
var corsHeaders = strings.Join([]string{
	"Authorization", "Content-Type", "X-WalletKit-Project-ID", "X-WalletKit-Token-Source", UserHeader,
}, ", ")

func checkOrigins(origins []string) {
	for _, origin := range origins {
		u, err := url.Parse(origin)
		plain := err == nil && u.Host != "" && !strings.Contains(u.Host, "*")
		if origin == "*" || plain && origin == strings.ToLower(u.Scheme+"://"+u.Host) {
			continue
		}
		panic(fmt.Sprintf("walletauthtest: Config.CORS: %q is no origin: it is scheme://host or scheme://host:port in lower case, without a slash at the end, or *", origin))
	}
}

func (s *Server) mayCall(origin string) bool {
	return origin != "" && (slices.Contains(s.config.CORS, "*") || slices.Contains(s.config.CORS, origin))
}

// allowOrigin lets a page of an allowed origin read the reply, whatever that is.
// Retry-After and Date are named since a page sees no other header unasked.
func (s *Server) allowOrigin(w http.ResponseWriter, r *http.Request) {
	if len(s.config.CORS) == 0 {
		return
	}
	w.Header().Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); s.mayCall(origin) {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Expose-Headers", "Date, Retry-After")
	}
}

// isPreflight reports whether a browser asks if a page may send a request (the
// Fetch standard, section "CORS-preflight request").
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// preflight allows any method, since whether the path takes it is said better by
// the reply to the request itself.
func (s *Server) preflight(w http.ResponseWriter, r *http.Request) {
	if !s.mayCall(r.Header.Get("Origin")) {
		s.refuse("OPTIONS "+r.URL.Path, w, refuse(http.StatusForbidden, s.originRefusal()))
		return
	}
	w.Header().Set("Access-Control-Allow-Methods", r.Header.Get("Access-Control-Request-Method"))
	w.Header().Set("Access-Control-Allow-Headers", corsHeaders)
	w.Header().Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) originRefusal() string {
	if len(s.config.CORS) == 0 {
		return "pages of other origins may not call this server: name theirs in walletauthtest.Config.CORS"
	}
	return "pages of this origin may not call this server, only those of " + strings.Join(s.config.CORS, ", ") + " (walletauthtest.Config.CORS)"
}
