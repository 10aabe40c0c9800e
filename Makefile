# make demo    the whole journey on a real guest, from nothing
# make test    the tests
# make test-long    tests that build a Debian guest first, and take minutes
# make check   formatting, lints, dependencies
# make build   the programs, with manual pages and shell completions in target/man and target/completions
# make fuzz    each fuzz target for a while (SECONDS=60), with the nightly toolchain and cargo-fuzz
.PHONY: demo test test-long check build guest foreign fuzz

CARGO ?= cargo
# Tests that found that this machine can't do them, and why.
IGNORED = $${CARGO_TARGET_DIR:-target}/tmp/ignored.txt

# Guest tests that run again with the QEMU of Debian's backports.
ON_BOTH = bhyve::a_guest bhyve::a_life_with_uefi install::bios journey:: survival::a_killed zone::a_running

demo: build guest
	dist/demo.sh

test: guest foreign
	rm -f $(IGNORED)
	$(CARGO) test --locked --no-fail-fast; status=$$?; \
	if [ "$$(id -u)" = 0 ] && [ -e target/newer-qemu/usr ]; then \
		NEWER_QEMU=1 $(CARGO) test --locked --test guest -- $(ON_BOTH) || status=1; fi; \
	dist/list-ignored.sh $(IGNORED) || status=1; exit $$status

test-long: guest foreign
	$(CARGO) test --locked --test guest -- --ignored

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --quiet
	dist/check-dependencies.sh
	dist/check-client.sh

build:
	dist/install-packages.sh demo
	$(CARGO) build --locked
	mkdir -p target/man target/completions
	target/debug/vmadm man target/man
	target/debug/imgadm man target/man
	for shell in bash zsh fish; do \
		for program in vmadm imgadm; do \
			target/debug/$$program completions $$shell >target/completions/$$program.$$shell || exit 1; \
		done; \
	done

SECONDS = 60
fuzz:
	[ -d fuzz/corpus ] || { mkdir fuzz/corpus && tar -C fuzz/corpus -xJf fuzz/corpus.tar.xz; }
	for target in machine_json update words metadata dhcp zfs_stream qcow2; do \
		$(CARGO) +nightly fuzz run $$target -- -max_total_time=$(SECONDS) -max_len=4096 || exit 1; \
	done

# The test guest, made again only when what it is made of changed.
guest:
	dist/install-packages.sh demo
	tests/guest/build.sh target/guest

# Clients of other people, which the tests drive the agent with.
foreign:
	dist/install-packages.sh test
	tests/guest/newer-qemu.sh target/newer-qemu || [ $$? = 3 ]
	tests/foreign/setup.sh target/foreign
	dist/install-novnc.sh target/novnc
