package walletauth_test

import (
	"context"
	"slices"
	"sync"

	"github.com/walletauth/walletauth"
)

// keptEvents collects what OnEvent reports.
type keptEvents struct {
	mu   sync.Mutex
	list []walletauth.Event
}

func (e *keptEvents) add(_ context.Context, event walletauth.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
}

func (e *keptEvents) all() []walletauth.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.list)
}

func (e *keptEvents) types() []walletauth.EventType {
	var types []walletauth.EventType
	for _, event := range e.all() {
		types = append(types, event.Type)
	}
	return types
}
