#!/bin/sh
# The client library as another project takes it: from an empty directory, with the feature `client` alone. Prints how
# many crates it needs, and fails above a bound.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
most=115
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/src"
cp "$root/Cargo.lock" "$scratch/Cargo.lock"
cat >"$scratch/Cargo.toml" <<EOF
[package]
name = "controller"
version = "0.0.0"
edition = "2024"

[dependencies]
tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
uuid = { version = "1", features = ["v4"] }
zoneward = { path = "$root", default-features = false, features = ["client"] }
EOF
cp "$root/examples/controller.rs" "$scratch/src/main.rs"
cd "$scratch"
CARGO_TARGET_DIR="$root/target/client" cargo check --quiet
crates=$(cargo tree --edges normal --prefix none | awk '{print $1, $2}' | sort -u | grep -cv '^controller ')
echo "the client needs $crates crates (at most $most)"
[ "$crates" -le "$most" ]
for unwanted in rusqlite libsqlite3-sys rtnetlink landlock axum clap; do
    if cargo tree --edges normal --prefix none | grep -q "^$unwanted "; then
        echo "check-client: the client needs $unwanted" >&2
        exit 1
    fi
done
