.PHONY: test quickstart

# All tests and linters of all modules. Needs Go, git and make.
test:
	@scripts/test.sh

# A session kept alive through expiries, revocations and an outage.
quickstart:
	go run ./examples/quickstart
