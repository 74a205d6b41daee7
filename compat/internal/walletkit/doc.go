// Package walletkit is a client for a part of WalletKit's API, generated from
// walletkit.yaml. It knows nothing of sessions, as generated clients do not.
package walletkit

//go:generate go tool oapi-codegen -config config.yaml walletkit.yaml
