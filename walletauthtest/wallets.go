package walletauthtest

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"slices"
	"sync"
	"time"
)

type wallet struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	Network   string    `json:"network"`
	Name      string    `json:"name,omitempty"`
	OwnerID   string    `json:"owner_id,omitempty"`
	Address   string    `json:"address"`
}

// wallets is what each user has made.
type wallets struct {
	mu     sync.Mutex // guards byUser
	byUser map[string][]wallet
}

func (ws *wallets) add(userID string, w wallet) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.byUser == nil {
		ws.byUser = make(map[string][]wallet)
	}
	ws.byUser[userID] = append(ws.byUser[userID], w)
}

// of returns the wallets of a user that are wanted, an empty slice if there
// is none: in JSON that is [], not null.
func (ws *wallets) of(userID string, wanted func(wallet) bool) []wallet {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	found := []wallet{}
	for _, w := range ws.byUser[userID] {
		if wanted(w) {
			found = append(found, w)
		}
	}
	return found
}

var networks = []string{"Ethereum", "Polygon", "Base", "Avalanche", "Polkadot", "Vara"}

var controlModes = []string{"developer", "user"}

// checkOneOf refuses a value that is missing or not allowed, and says which are.
func checkOneOf(name, value string, allowed []string) error {
	if value == "" {
		return breach(http.StatusBadRequest, name+" is missing: send one of "+list(allowed))
	}
	if !slices.Contains(allowed, value) {
		return breach(http.StatusBadRequest, name+" is not one of "+list(allowed))
	}
	return nil
}

func checkNetwork(name string) error { return checkOneOf("network", name, networks) }

// listWallets answers with all wallets at once: page and page_size are not
// documented well enough to be imitated.
func (s *Server) listWallets(r *request) (any, error) {
	network := r.URL.Query().Get("network")
	if network != "" {
		if err := checkNetwork(network); err != nil {
			return nil, err
		}
	}
	return s.wallets.of(r.session.userID, func(w wallet) bool {
		return network == "" || w.Network == network
	}), nil
}

// getWallet does not tell another user's wallet from one that is not there.
func (s *Server) getWallet(r *request) (any, error) {
	id, network := r.URL.Query().Get("id"), r.URL.Query().Get("network")
	if err := require("id", id); err != nil {
		return nil, err
	}
	if err := checkNetwork(network); err != nil {
		return nil, err
	}
	found := s.wallets.of(r.session.userID, func(w wallet) bool { return w.ID == id && w.Network == network })
	if len(found) == 0 {
		return nil, refuse(http.StatusNotFound, "no such wallet: the ids are those that GET /wallets answers, with their networks")
	}
	return found[0], nil
}

func (s *Server) createWallet(r *request) (any, error) {
	var in struct {
		Network         string `json:"network"`
		Name            string `json:"name"`
		OwnerID         string `json:"owner_id"`
		ControlMode     string `json:"control_mode"`
		DeveloperSecret string `json:"developer_secret"` // read for its type only
		UserPIN         string `json:"user_pin"`         // likewise
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if err := checkNetwork(in.Network); err != nil {
		return nil, err
	}
	if err := require("name", in.Name); err != nil {
		return nil, err
	}
	if err := checkOneOf("control_mode", in.ControlMode, controlModes); err != nil {
		return nil, err
	}
	if in.OwnerID == "" {
		in.OwnerID = r.session.userID
	}
	w := wallet{
		ID: "wallet-" + rand.Text(), CreatedAt: instant(s.now()), Address: newAddress(),
		Network: in.Network, Name: in.Name, OwnerID: in.OwnerID,
	}
	s.wallets.add(r.session.userID, w)
	return w, nil
}

func newAddress() string {
	var address [20]byte
	_, _ = rand.Read(address[:]) // never fails
	return "0x" + hex.EncodeToString(address[:])
}
