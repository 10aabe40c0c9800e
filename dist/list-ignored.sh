#!/bin/sh
# Lists the tests that could not run on this machine. With CI set, fails for any that tests/may-be-ignored.txt does not
# allow.
set -eu
list=$1
[ -s "$list" ] || exit 0
echo "These tests could not run on this machine:" >&2
sort -u "$list" >&2
[ -n "${CI:-}" ] || exit 0
allowed=$(dirname "$0")/../tests/may-be-ignored.txt
unexpected=$(grep -v -e '^#' -e '^$' "$allowed" | grep -vFf - "$list" || true)
[ -z "$unexpected" ] || {
    echo "These are not in tests/may-be-ignored.txt:" >&2
    echo "$unexpected" >&2
    exit 1
}
