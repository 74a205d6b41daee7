#!/bin/sh
# Searches for counter-examples for as long as it is worth: every test in its full
# length, 20,000 simulated histories, and each fuzz target for 20 seconds. And what
# is not Linux is at least compiled and vetted. It takes about half an hour on two
# cores; run it after scripts/test.sh, which finds most mistakes in a few minutes.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

# How long each target is fuzzed; a bound on making inputs small, which may take
# a minute otherwise; and one process for each target, of which three run at once.
fuzz_flags="-fuzztime 20s -fuzzminimizetime 100x -parallel 1"

histories=20000

# A lane less than scripts/test.sh has: at their full length tests do more than wait.
lanes="1 2 3"

# The tests of ./sqlstore with a MariaDB, or with no server.
but_sqlite="InMariaDB|Histories|Losses|Outage|EachChange|OutOfOrder|SlowSave|SteadyState|NoCopies"

trap 'closing_line; rm -rf "$work"' EXIT

main() {
	require_tools
	since=$(date +%s) note=
	step "without the race detector" simulated
	count
	printf 'ok    %-24s %4d s%s, %s histories simulated\n' "full size, no race" $(($(date +%s) - since)) "$note" "$histories"
	# shellcheck disable=SC2046 # each word is a module
	in_lanes prove $(modules)
	fuzz
	printf 'ok    everything proven, in %d s\n' $(($(date +%s) - started))
}

# The race detector is too slow for so many histories, and for ten thousand users.
# It sees fewer of both, in the tests of each module. -sim.patches has the search find
# lines that are wrong on purpose.
simulated() {
	go test -v -timeout 60m . -sim.seeds="$histories" -sim.patches && grep -q '^--- PASS: TestSimulation ' "$log"
}

prove() {
	module=$1 since=$(date +%s) note=
	[ "$module" != "$measures" ] || lint
	step "$module: go vet for Windows" in_module env GOOS=windows go vet ./...
	step "$module: go vet for macOS" in_module env GOOS=darwin go vet ./...
	tested
	if [ "$module" = "$slow_under_race" ]; then
		step "$module: tests of MariaDB under the race detector" in_module go test -race -run "$but_sqlite" .
	fi
	report
}

fuzz() {
	since=$(date +%s)
	grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's/func //' | sort >"$work/targets"
	[ -s "$work/targets" ] || fail "no fuzz target was found"
	# shellcheck disable=SC2046 # each word is a file and a target
	in_lanes fuzz_target $(cat "$work/targets")
	printf 'ok    %-24s %4d s\n' "$(wc -l <"$work/targets") fuzz targets" $(($(date +%s) - since))
}

fuzz_target() {
	module=$(dirname "${1%:*}") target=${1#*:}
	step "$module: fuzz $target" fuzzed
}

# Go is content with a name that matches no target, hence the look for inputs
# that were tried.
fuzzed() {
	# shellcheck disable=SC2086 # the flags are several words
	in_module go test -run '^$' -fuzz "^$target\$" $fuzz_flags . || only_the_deadline || return 1
	grep -Eq '^fuzz: elapsed: .*, execs: [1-9]' "$log" || { echo "nothing was fuzzed"; return 1; }
}

# Go 1.26 fails now and then because the time is up (go.dev/issue/75804, fixed
# in 1.27). It has nothing else to say then, while a finding, a hang or a crash
# comes with more: any line but these is taken for one. What comes before them
# is from the start of a TestMain.
only_the_deadline() {
	grep -qx '    context deadline exceeded' "$log" || return 1
	! sed -n '/^fuzz: elapsed/,$p' "$log" | grep -Eqvx "fuzz: .*|--- FAIL: $target \([0-9.]+s\)|    context deadline exceeded|FAIL|exit status 1|FAIL	.*"
}

main
