#!/bin/sh
# Tests on another system than Linux what depends on the system: the released
# modules. The tests of stores that need a server are for Linux alone.
set -eu
cd "$(dirname "$0")/.."

for module in $(find . -name go.mod -not -path '*/.*' -not -path '*/testdata/*' -exec dirname {} \; | grep -Ev '^\./(bench|compat|stress|tools|examples/.*)$' | sort); do
	(cd "$module" && go vet ./... && go test -short ./...)
done
