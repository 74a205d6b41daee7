# What scripts/test.sh and scripts/proof.sh share. It is sourced, by sh, in the
# folder of the repository.
#
# A step is a command that runs in silence; if it fails its output is shown and
# the run ends. Lanes take modules from one list until it is empty.
. scripts/modules.sh

# What measures speed, and is scripts/proof.sh's: to build the peers that it is
# compared with takes minutes. The race detector would falsify it.
measures="./bench"

# SQLite is a C program translated to Go, which the race detector makes ten times as
# slow: a thousand keys take longer than an Update waits. What is ours runs under it
# with MariaDB, in scripts/proof.sh.
slow_under_race="./sqlstore"

# Whose counts, of requests, faults and losses, are shown.
counts="./stress"

# What tests start. They install it themselves, but two lanes must not at once.
packages="chromium-headless-shell curl dbus gnome-keyring jq mariadb-server nodejs pgbouncer postgresql prometheus python3 redis-server spin"

# More than a small machine has processors: the tests of stores mostly wait, for
# processes, servers and locks.
lanes="1 2 3 4"

# The tests that ran, a line each: several scripts may write to one file, so
# that the last of them counts all.
tally=${TALLY:-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
log=$work/log
started=$(date +%s)
: "${tally:=$work/tally}"
: >>"$tally"

# is WORD LIST reports whether a word is one of a list's.
is() {
	case " $2 " in
	*" $1 "*) return 0 ;;
	esac
	return 1
}

# in_lanes COMMAND WORD... runs the command with each word, in several lanes.
in_lanes() {
	command=$1
	shift
	mkdir "$work/$command"
	pids=
	for lane in $lanes; do
		in_lane "$command" "$@" &
		pids="$pids $!"
	done
	failed=
	for pid in $pids; do
		wait "$pid" || failed=yes
	done
	[ -z "$failed" ] || exit 1
}

# in_lane takes words that no other lane has taken: only one can make a folder.
# It ends at its first failure, and after what it is at if another has failed.
in_lane() {
	command=$1
	log=$work/log.$command.$lane
	shift
	taken=0
	for word; do
		taken=$((taken + 1))
		mkdir "$work/$command/$taken" 2>/dev/null || continue
		[ ! -e "$work/failed" ] || exit 1
		"$command" "$word"
	done
}

# closing_line says what the run came to, whether it fails or not: other programs
# read it.
closing_line() {
	passed=$(grep -c PASS "$tally") || true
	failed=$(grep -c FAIL "$tally") || true
	skips=$(grep -c SKIP "$tally") || true
	echo "$passed passed, $failed failed, $skips skipped"
}

# Packages are mostly waited for, and the tools are built meanwhile.
require_tools() {
	in_lanes require packages tools
}

require() {
	if [ "$1" = tools ]; then
		step "tools" go -C tools build -o "$work/" honnef.co/go/tools/cmd/staticcheck github.com/rhysd/actionlint/cmd/actionlint ./apicheck
		return
	fi
	install_packages
	command -v "$(go env CC)" >/dev/null || install_compiler
}

install_packages() {
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		return # the tests say what they miss
	fi
	missing=
	for package in $packages; do
		dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
	done
	if [ -n "$missing" ]; then
		echo "      installing what tests start:$missing"
		# shellcheck disable=SC2086 # each word is a package
		install $missing
	fi
}

# The race detector links with cgo, which a machine with Go alone lacks.
install_compiler() {
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "go test -race needs a C compiler: install gcc and the C library's headers" >&2
		exit 1
	fi
	echo "      installing gcc, which go test -race needs"
	install gcc libc6-dev
}

install() {
	step "apt-get update" apt-get update
	step "apt-get install" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

lint() {
	step "$module: go vet" in_module go vet $(race) ./...
	step "$module: staticcheck" in_module env GOFLAGS="$(go env GOFLAGS) $(race)" "$work/staticcheck" ./...
}

# tested FLAG... runs the tests of the module, which go vet has looked at. Those
# under the race detector are built as go vet and staticcheck have them, who share
# what was built. What a debugger needs is left out, which takes time to link.
tested() {
	step "$module: tests" in_module go test -v -vet=off -ldflags=-w $(race) "$@" ./...
	count
}

# The tools have been built without it just before, and start no goroutine.
race() {
	is "$module" "$measures $slow_under_race ./tools" || echo -race
}

# count keeps what the tests of a module came to, subtests included.
count() {
	grep -oE '^ *--- (PASS|SKIP)' "$log" >"$log.tests" || fail "$module: no test was run"
	cat "$log.tests" >>"$tally"
	note=", $(grep -c PASS "$log.tests") tests"
}

# report is the line of a module, and what was skipped there and why: nobody
# reads the output of tests that pass.
report() {
	printf 'ok    %-24s %4d s%s\n' "$module" $(($(date +%s) - since)) "$note"
	skipped <"$log"
	if is "$module" "$counts"; then
		grep -E '^ {4,}[a-z_]+\.go:[0-9]+: |^ {8}' "$log" || true
	fi
}

skipped() {
	awk '
		/^=== (RUN|PAUSE|CONT|NAME) / { now = $3 }
		/^ *--- SKIP: / { print "      skipped: " $3 (said[$3] == "" ? "" : ": " said[$3]) }
		/^ *[a-z_0-9]+\.go:[0-9]+: / { sub(/^ *[a-z_0-9]+\.go:[0-9]+: /, ""); said[now] = $0 }'
}

in_module() {
	(cd "$module" && "$@")
}

# step NAME COMMAND... runs the command in silence; if it fails, its output is
# shown and this is the end.
step() {
	name=$1
	shift
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
	grep -oE '^ *--- FAIL' "$log" >>"$tally" || echo FAIL >>"$tally" # if it is no test that failed
	echo "FAIL  $*"
	exit 1
}
