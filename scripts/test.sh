#!/bin/sh
# Checks every module of the repository but bench: gofmt, go vet, staticcheck, and
# the tests under the race detector, in their short round. Then what modules export,
# beside what they exported at the last release, and the workflows.
#
# It prints a line for each module, stops at the first failure with its output,
# and ends with the number of tests. What takes longer is scripts/proof.sh's.
#
#	scripts/test.sh              # all modules
#	scripts/test.sh ./redisstore # one
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

min_coverage=95 # percent of the root package's statements, by its own tests

trap 'closing_line; rm -rf "$work"' EXIT

main() {
	# shellcheck disable=SC2046 # each word is a module
	[ $# -gt 0 ] || set -- $(modules | grep -vx "$measures")
	require_tools
	in_lanes check "$@"
	# shellcheck disable=SC2046
	step "API" env GOFLAGS="$(go env GOFLAGS) -race" "$work/apicheck" $(released)
	cat "$log"
	step "workflows" "$work/actionlint" -shellcheck= -pyflakes=
	step "dependabot" kept_up_to_date
	printf 'ok    everything, in %d s\n' $(($(date +%s) - started))
}

check() {
	module=$1 since=$(date +%s) note=
	step "$module: gofmt" formatted
	lint
	if [ "$module" = . ]; then
		tested -short -cover
		covered || fail ".: coverage"
	else
		tested -short
	fi
	report
}

kept_up_to_date() {
	for module in $(modules); do
		folder=$(echo "${module#.}" | sed 's|^$|/|')
		grep -qx "      - $folder" .github/dependabot.yml || { echo ".github/dependabot.yml does not have $folder"; return 1; }
	done
}

# Nested modules are looked at when it is their turn, and the root sees them
# too, which costs nothing.
formatted() {
	bad=$(gofmt -l "$module") || return 1
	[ -z "$bad" ] || { echo "not as gofmt has it: $bad"; return 1; }
}

# The figure is in the tests' output, which is still in the log.
covered() {
	percent=$(awk '$1 == "ok" && $2 == "github.com/walletauth/walletauth" {
		for (i = 3; i < NF; i++) if ($i == "coverage:") print $(i+1) + 0 }' "$log")
	note="$note, coverage ${percent:-unknown} %"
	awk -v have="${percent:-0}" -v want="$min_coverage" 'BEGIN { exit !(have >= want) }' || {
		echo "the root package's tests cover ${percent:-an unknown number of} percent of its statements, not $min_coverage"
		return 1
	}
}

main "$@"
