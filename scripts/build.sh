#!/usr/bin/env bash
# Builds in release mode and lays out a folder to run the example in:
#   scripts/build.sh [DIR]      DIR is build/example unless given
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}

if (($# > 1)) || [[ ${1:-} == -* ]]; then
  echo "usage: build.sh [DIR]" >&2
  exit 2
fi
dir=${1:-$root/build/example}

if ! command -v cargo >/dev/null; then
  echo "build.sh: cargo is not installed; see https://rustup.rs" >&2
  exit 1
fi

# What CARGO_TARGET_DIR and configuration files make of it.
target=$(cargo metadata --manifest-path "$root/Cargo.toml" --locked --format-version 1 --no-deps |
  sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
programs=(raft_example raft_client raft_bench raft_wal raft_sim)
cargo build --manifest-path "$root/Cargo.toml" --locked --release --features tools "${programs[@]/#/--bin=}"

# By rename, so that a file that is being run can be replaced.
install_file() {
  local to=$dir/${1##*/}
  cp -- "$1" "$to.new.$$"
  chmod 755 -- "$to.new.$$"
  mv -f -- "$to.new.$$" "$to"
}

mkdir -p -- "$dir"
for file in "${programs[@]/#/$target/release/}" \
  "$here/run.sh" "$here/stop.sh" "$here/clean.sh" "$here/nodes.sh"; do
  install_file "$file"
done
echo "Built: $dir"
