#!/bin/sh
# Tests on another system than Linux what depends on the system: the modules that
# are released. The tests of stores that need a server are for Linux alone.
set -eu
cd "$(dirname "$0")/.."
. scripts/modules.sh

for module in $(released); do
	(cd "$module" && go vet ./... && go test -short ./...)
done
