#!/bin/sh
# Fails if a released module calls a function that is known to be vulnerable, its
# own or a dependency's. It asks vuln.go.dev, which is why make test does without.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

step "tools" go -C tools build -o "$work/" golang.org/x/vuln/cmd/govulncheck
for module in $(released); do
	step "$module: govulncheck" in_module "$work/govulncheck" ./...
	echo "ok    $module"
done
