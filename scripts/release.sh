#!/bin/sh
# Prepares a release of all modules under one version, in a clone of HEAD:
#
#	scripts/release.sh v0.1.0      # makes the tags here, and says how to push them
#	scripts/release.sh -n v0.1.0   # tries all of it and leaves nothing behind
#
# On the main branch nested modules replace the modules beside them by their
# folders, so that a fresh clone builds. A release has its own commit on top, in
# which the folders are gone and the version is required instead; the branch
# stays as it is. The root is tagged v0.1.0, a nested module filestore/v0.1.0.
#
# Before a tag is made here, a program outside of the repository has been built
# against the prepared modules, through a proxy that is a folder.
set -eu
cd "$(dirname "$0")/.."

. scripts/modules.sh

root=github.com/walletauth/walletauth

fail() {
	echo "release: $*" >&2
	exit 1
}

try=
if [ "${1-}" = -n ]; then
	try=yes
	shift
fi
version=${1-}
echo "$version" | grep -Eq '^v[01]\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$' || fail "usage: scripts/release.sh [-n] v0.1.0"
[ -n "$try" ] || [ -z "$(git status --porcelain)" ] || fail "there are changes that are not committed"
[ -n "$try" ] || grep -q "^## $version\$" CHANGELOG.md || fail "CHANGELOG.md has no line \"## $version\""
[ -n "$try" ] || scripts/api.sh -exact || fail "run make api and commit tools/api: later changes are compared with it"
[ -z "$(git tag -l "$version" "*/$version")" ] || fail "$version is tagged already"

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
clone=$work/clone

main() {
	git clone -q . "$clone"
	base=$(git -C "$clone" rev-parse HEAD) # a commit made here meanwhile is none of it
	go_finds_the_clone
	quietly "the root's go.mod is not as go mod tidy has it" in_clone . go mod tidy -diff
	tag "$version"
	for module in $(in_order); do
		prepare "$module"
	done
	tag_the_last_commit
	try_outside
	if [ -n "$try" ]; then
		echo "ok    nothing was changed here"
		return
	fi
	git fetch -q "$clone" 'refs/tags/*:refs/tags/*'
	echo "ok    to publish: git push origin $(tags | tr '\n' ' ')"
}

# What the go command fetches of these modules comes from the clone, by git,
# just as it would come from the tags that are published. All else comes from
# the cache of this machine, or from where it came before.
go_finds_the_clone() {
	others="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)"
	export GOMODCACHE="$work/cache" GOPROXY="$others" GOPRIVATE="$root,$root/*" GOWORK=off
	export GOFLAGS="-modcacherw -trimpath" # without the folders in it, what is built counts for the program outside, too
	export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$clone.insteadOf" GIT_CONFIG_VALUE_0="https://$root"
}

nested() {
	(cd "$clone" && released | grep -vx '\.')
}

# commands are the nested modules whose package is a program.
commands() {
	for module in $(nested); do
		[ "$(in_clone "$module" go list -f '{{.Name}}' . 2>/dev/null)" != main ] || echo "$module"
	done
}

# A module comes after those that it requires: tsort reads pairs, what comes
# first and what comes after it.
in_order() {
	nested | while read -r module; do
		echo "$module $module"
		siblings "$module" | sed "s|\$| $module|"
	done | tsort
}

# siblings are the nested modules that one requires.
siblings() {
	sed -n "s|^[[:space:]]*\(require \)\{0,1\}$root/\([a-z/]*\) v.*|\2|p" "$clone/$1/go.mod" | sort -u
}

# prepare puts versions in the place of folders and tags the result, which the
# checksums in the go.sum of the next module are of.
prepare() {
	quietly "$1 does not build without its replace" without_folders "$1"
	commit "Release $version of $1"
	tag "$1/$version"
	echo "ok    $1/$version"
}

without_folders() {
	for sibling in "$root" $(siblings "$1" | sed "s|^|$root/|"); do
		in_clone "$1" go mod edit -dropreplace="$sibling" -require="$sibling@$version" || return
	done
	if grep '=>' "$clone/$1/go.mod"; then
		return 1
	fi
	in_clone "$1" go mod tidy && in_clone "$1" go vet ./...
}

in_clone() (
	cd "$clone/$1" && shift && "$@"
)

# quietly COMPLAINT COMMAND... shows what the command printed if it fails.
quietly() {
	complaint=$1
	shift
	"$@" >"$work/log" 2>&1 || {
		cat "$work/log"
		fail "$complaint"
	}
}

commit() {
	git -C "$clone" -c user.name="$(git log -1 --format=%cn)" -c user.email="$(git log -1 --format=%ce)" commit -qam "$1"
}

tag() { git -C "$clone" tag "$1"; }

tags() { git -C "$clone" tag -l "$version" "*/$version"; }

# One commit for all tags. What a module holds is the same there as in the
# commit that it was tagged at.
tag_the_last_commit() {
	git -C "$clone" reset -q --soft "$base"
	commit "Release $version"
	for name in $(tags); do
		git -C "$clone" tag -f "$name" >/dev/null
	done
}

# try_outside builds a program that imports every released module, and those that
# are programs. It sees no clone: the cache that the go command has filled is laid out as a proxy.
try_outside() {
	commands >"$work/commands"
	fetch_all
	unset GIT_CONFIG_COUNT GOPRIVATE
	export GONOSUMDB="$root,$root/*" GOMODCACHE="$work/outside-cache" GOFLAGS="-modcacherw -trimpath -mod=mod"
	export GOPROXY="file://$work/fetched/cache/download,$others"
	mkdir "$work/outside"
	outside >"$work/outside/main.go"
	quietly "a program outside does not build" build_outside
	echo "ok    a program outside, which is made of"
	grep "^	dep	$root" "$work/log"
}

fetch_all() {
	export GOMODCACHE="$work/fetched"
	for module in "" $(nested | sed 's|^|/|'); do
		quietly "$root$module is not to be had" go mod download "$root$module@$version"
	done
}

outside() {
	printf 'package main\n\nimport (\n\t_ "%s"\n\t_ "%s/walletauthtest"\n' "$root" "$root"
	nested | grep -vxFf "$work/commands" | sed "s|.*|	_ \"$root/&\"|"
	printf ')\n\nfunc main() {}\n'
}

build_outside() (
	cd "$work/outside" && go mod init example.com/outside || return
	for module in "" $(nested | sed 's|^|/|'); do
		go get "$root$module@$version" || return
	done
	while read -r command; do
		go build -o command "$root/$command" || return
	done <"$work/commands"
	go build -o program . && ./program && go version -m program
)

main
