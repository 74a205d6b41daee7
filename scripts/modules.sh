# Which modules there are, as folders. It is sourced, by sh, and looks at the
# folder that it is used in. Modules are found by their go.mod.

# The root comes first: if it is broken, so is what builds on it. Then what takes
# longest to test, so that no lane is left alone with it at the end.
modules() {
	long="./sqlstore ./pgxstore ./redisstore"
	# shellcheck disable=SC2086 # each word is a module
	printf '%s\n' . $long
	find . -mindepth 2 -name go.mod -not -path '*/.*' -not -path '*/testdata/*' -exec dirname {} \; | sort | grep -vxF "$(echo "$long" | tr ' ' '\n')"
}

# released are those that other people import or install: all but what only
# people who change this repository run.
released() {
	modules | sed 's|^\./||' | grep -Ev '^(bench|compat|stress|tools|examples/.*)$'
}
