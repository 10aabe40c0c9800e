# make demo    the whole journey on a real guest, from nothing
# make test    every test
# make check   formatting, lints, dependencies
.PHONY: demo test check build guest foreign

CARGO ?= cargo

demo: build guest
	dist/demo.sh

test: guest foreign
	$(CARGO) test --locked --no-fail-fast

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet
	dist/check-dependencies.sh

build:
	dist/install-packages.sh demo
	$(CARGO) build --locked

# The test guest, made again only when what it is made of changed.
guest:
	dist/install-packages.sh demo
	tests/guest/build.sh target/guest

# Clients of other people, which the tests drive the agent with.
foreign:
	dist/install-packages.sh test
	tests/foreign/setup.sh target/foreign
