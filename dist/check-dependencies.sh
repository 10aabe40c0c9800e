#!/bin/sh
# Bans, licences and sources of everything in the lock file, as deny.toml says.
set -eu
if ! command -v cargo-deny >/dev/null 2>&1; then
    echo "check-dependencies: installing cargo-deny (once)" >&2
    cargo install --quiet --locked --version 0.20.2 cargo-deny
fi
cargo deny --all-features --log-level error check bans licenses sources
