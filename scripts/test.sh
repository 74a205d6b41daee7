#!/bin/sh
# Checks every module of the repository: gofmt, go vet for three systems,
# staticcheck, the tests under the race detector, and a short round of fuzzing.
# It prints a line for each module and stops at the first failure with its
# output. Modules are found by their go.mod, so a new one needs no entry here.
set -eu
cd "$(dirname "$0")/.."

min_coverage=95       # percent of the root package's statements, by its own tests

# What measures speed: the race detector would falsify it, and to build its peers
# once more for that takes a minute.
measures="./bench"

# How long each target is fuzzed; a bound on making inputs small, which may take
# a minute otherwise; and one process for each target, of which two run at once.
fuzz_flags="-fuzztime 20s -fuzzminimizetime 100x -parallel 1"

# Modules whose tests mostly wait, for processes, servers and locks. They are
# checked beside the others, in a lane of their own.
waiting="./cmd/walletauth ./examples/fleet ./filestore ./keyring ./pgxstore ./redisstore ./stress"

# What is counted there, of requests, faults and losses, is shown.
counts="./stress"

# What tests start. They install it themselves, but two lanes must not at once.
packages="curl dbus gnome-keyring jq nodejs pgbouncer postgresql python3 redis-server spin"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
log=$work/log
started=$(date +%s)

main() {
	require_tools
	# shellcheck disable=SC2046,SC2086 # each word is a module
	{
		lane 1 $(computing) & first=$!
		lane 2 $waiting & second=$!
	}
	failed=
	wait $first || failed=yes
	wait $second || failed=yes
	[ -z "$failed" ] || exit 1
	fuzz
	printf 'ok    everything, in %d s\n' $(($(date +%s) - started))
	total
}

# The root comes first: if it is broken, so is what builds on it.
modules() {
	echo .
	find . -mindepth 2 -name go.mod -not -path '*/.*' -not -path '*/testdata/*' -exec dirname {} \; | sort
}

# lane checks modules in turn. It stops at its first failure, or after the
# module it is at if the other lane has failed.
lane() {
	log=$work/log.$1
	shift
	for module; do
		[ ! -e "$work/failed" ] || exit 1
		check "$module"
	done
}

computing() {
	for module in $(modules); do
		case " $waiting " in
		*" $module "*) ;;
		*) echo "$module" ;;
		esac
	done
}

require_tools() {
	install_packages
	if ! command -v "$(go env CC)" >/dev/null; then
		install_compiler
	fi
	step tools build_staticcheck
}

install_packages() {
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		return # the tests say what they miss
	fi
	for package in $packages; do
		dpkg -s "$package" >/dev/null 2>&1 || missing="${missing-} $package"
	done
	if [ -n "${missing-}" ]; then
		echo "      installing what tests start:$missing"
		step "apt-get update" apt-get update
		# shellcheck disable=SC2086 # each word is a package
		step "apt-get install" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
	fi
}

# The race detector links with cgo, which a machine with Go alone lacks.
install_compiler() {
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "go test -race needs a C compiler: install gcc and the C library's headers" >&2
		exit 1
	fi
	echo "      installing gcc, which go test -race needs"
	step "apt-get update" apt-get update
	step "apt-get install" env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y --no-install-recommends gcc libc6-dev
}

build_staticcheck() {
	go -C tools build -o "$work/staticcheck" honnef.co/go/tools/cmd/staticcheck
}

check() {
	module=$1 since=$(date +%s) note=
	step "$module: packages" in_module go list ./...
	if ! grep -qv '^go: ' "$log"; then
		return # the tools: versions, no packages
	fi
	step "$module: gofmt" formatted
	step "$module: go vet" in_module go vet ./...
	step "$module: go vet for Windows" in_module env GOOS=windows go vet ./...
	step "$module: go vet for macOS" in_module env GOOS=darwin go vet ./...
	step "$module: staticcheck" in_module "$work/staticcheck" ./...
	case $module in
	.)
		step "$module: simulation" simulated
		step "$module: tests" in_module go test -v -race -cover ./...
		;;
	"$measures") step "$module: tests" in_module go test -v ./... ;;
	*) step "$module: tests" in_module go test -v -race ./... ;;
	esac
	count
	[ "$module" != . ] || step "$module: coverage" covered
	printf 'ok    %-24s %4d s%s\n' "$module" $(($(date +%s) - since)) "$note"
	tell
}

# The simulation at its full length, for which the race detector is too slow.
simulated() {
	go test -v -run '^TestSimulation$' . && grep -q '^--- PASS: TestSimulation ' "$log"
}

# count keeps what the tests of a module came to, subtests included. That a test
# was skipped is told, since nobody reads the output of those that pass.
count() {
	grep -oE '^ *--- (PASS|SKIP)' "$log" >"$log.tests" || fail "$module: no test was run"
	cat "$log.tests" >>"$work/tests"
	grep -E '^ *--- SKIP' "$log" >"$log.skipped" || true
	note=", $(grep -c PASS "$log.tests") tests"
}

tell() {
	while read -r _ _ name _; do
		echo "      skipped: $name"
	done <"$log.skipped"
	if [ "$module" = "$counts" ]; then
		grep -E '^ {4,}[a-z_]+\.go:[0-9]+: |^ {8}' "$log" || true
	fi
}

total() {
	printf '%d passed, 0 failed, %d skipped\n' "$(grep -c PASS "$work/tests")" "$(grep -c SKIP "$work/tests")"
}

in_module() {
	(cd "$module" && "$@")
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
		for (i = 3; i < NF; i++) if ($i == "coverage:") print $(i+1) + 0 }' "$log.before")
	note="$note, coverage ${percent:-unknown} %"
	awk -v have="${percent:-0}" -v want="$min_coverage" 'BEGIN { exit !(have >= want) }' || {
		echo "the root package's tests cover ${percent:-an unknown number of} percent of its statements, not $min_coverage"
		return 1
	}
}

# The targets are dealt out to two lanes in turn.
fuzz() {
	since=$(date +%s)
	grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort >"$work/targets"
	[ -s "$work/targets" ] || { echo "FAIL  no fuzz target was found"; exit 1; }
	fuzz_lane 1 & first=$!
	fuzz_lane 0 & second=$!
	failed=
	wait $first || failed=yes
	wait $second || failed=yes
	[ -z "$failed" ] || exit 1
	printf 'ok    %-24s %4d s\n' "$(wc -l <"$work/targets") fuzz targets" $(($(date +%s) - since))
}

fuzz_lane() {
	log=$work/log.fuzz.$1
	awk -v lane="$1" 'NR % 2 == lane' "$work/targets" >"$work/targets.$1"
	while IFS=: read -r file target; do
		[ ! -e "$work/failed" ] || exit 1
		target=${target#func } module=$(dirname "$file")
		step "$module: fuzz $target" fuzzed
	done <"$work/targets.$1"
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

# step NAME COMMAND... runs the command in silence; if it fails, its output is
# shown and this is the end.
step() {
	name=$1
	shift
	if [ -e "$log" ]; then mv "$log" "$log.before"; fi
	if "$@" >"$log" 2>&1 </dev/null; then
		return
	fi
	of_failures <"$log"
	fail "$name"
}

# of_failures leaves out what go test -v says of tests that passed.
of_failures() {
	awk '
		/^=== (RUN|PAUSE|CONT|NAME) / { now = $3; next }
		/^ *--- (PASS|SKIP): / { delete said[$3]; now = ""; next }
		/^ *--- FAIL: / { printf "%s", said[$3]; delete said[$3]; now = "" }
		now != "" { said[now] = said[now] $0 "\n"; next }
		{ print }
		END { for (test in said) printf "%s", said[test] }'
}

fail() {
	: >"$work/failed"
	echo "FAIL  $*"
	exit 1
}

main
