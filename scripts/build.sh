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
cargo build --manifest-path "$root/Cargo.toml" --locked --release --bin raft_example --bin raft_client --bin raft_wal

# By rename, so that a file that is being run can be replaced.
install_file() {
  local to=$dir/${1##*/}
  cp -- "$1" "$to.new.$$"
  chmod 755 -- "$to.new.$$"
  mv -f -- "$to.new.$$" "$to"
}

mkdir -p -- "$dir"
for file in "$target/release/raft_example" "$target/release/raft_client" "$target/release/raft_wal" \
  "$here/run.sh" "$here/stop.sh" "$here/clean.sh" "$here/nodes.sh"; do
  install_file "$file"
done
echo "Built: $dir"
