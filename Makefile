.PHONY: test proof api quickstart

# All tests and linters of all modules. Needs Go, git and make.
test:
	@scripts/test.sh

# The same tests at their full length, long searches and fuzzing: half an hour.
proof:
	@scripts/proof.sh

# Writes down what the modules export, for the next release to be compared with.
api:
	@scripts/api.sh

# A session kept alive through expiries, revocations and an outage.
quickstart:
	go run ./examples/quickstart
