#!/usr/bin/env bash
# Runs tests on a busy machine: six processes that compute and one that writes to the disk run beside them. A test that
# only a fast machine passes fails here.
#
#   tests/busy.sh 3                                    the whole workspace, three times
#   tests/busy.sh 10 --package millrace-tests --test e2e   these arguments to `cargo test`, ten times
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
times="${1:?is how often the tests run}"
shift
[[ $# -gt 0 ]] || set -- --workspace
# Build first: the compiler is not under test.
cargo test --locked --no-run "$@"

scratch="$(mktemp -d)"
beside=()
finish() {
  kill "${beside[@]}" 2> /dev/null || true
  rm -rf "$scratch"
}
trap finish EXIT
for _ in 1 2 3 4 5 6; do
  (while :; do :; done) &
  beside+=($!)
done
(while :; do dd if=/dev/zero of="$scratch/disk" bs=1M count=256 conv=fsync status=none; done) &
beside+=($!)

for ((time = 1; time <= times; time++)); do
  echo "=== $time of $times on a busy machine"
  cargo test --locked "$@"
done
