#!/bin/sh
# Writes down in tools/api what the released modules export: what changes later is
# compared with that. It belongs to a release, not to a change.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

step "tools" go -C tools build -o "$work/" ./apicheck
# shellcheck disable=SC2046 # each word is a module
step "API" "$work/apicheck" "${1:--update}" $(released)
cat "$log"
