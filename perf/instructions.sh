#!/usr/bin/env bash
# Counts the instructions of small pieces of work, where times would be too noisy, and holds
# the counts against those in perf/instructions.txt:
#   perf/instructions.sh            fails if one differs by more than 2 %
#   perf/instructions.sh --update   writes down what was counted as what is expected
# Needs valgrind; without it, or with another compiler than the counts were made with, nothing
# is checked, and the last line says so. Builds in release mode.
set -euo pipefail

tolerance_percent=2
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}
expected=$here/instructions.txt

update=0
case "$#:${1:-}" in
  0:) ;;
  1:--update) update=1 ;;
  1:--help | 1:-h)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *)
    echo "usage: instructions.sh [--update]" >&2
    exit 2
    ;;
esac

if ! command -v valgrind >/dev/null; then
  echo "instructions.sh: skipped: valgrind is not installed"
  exit 0
fi

cargo build --manifest-path "$root/Cargo.toml" --locked --release --features tools --bin raft_instructions
# What CARGO_TARGET_DIR and configuration files make of it.
target=$(cargo metadata --manifest-path "$root/Cargo.toml" --locked --format-version 1 --no-deps |
  sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
compiler="rustc $(rustc --version | cut -d' ' -f2) $(uname -m)"

dir=$(mktemp -d "${TMPDIR:-/tmp}/raftkv-instructions.XXXXXX")
trap 'rm -rf -- "$dir"' EXIT

# One run for all: each time that `counted` is left, what was counted inside of it is written
# to the next of counts.1, counts.2 and so on, and counting begins anew.
measured=raft_instructions::counted
if ! valgrind --tool=callgrind --callgrind-out-file="$dir/counts" --dump-line=no \
  --collect-atstart=no --toggle-collect="$measured" --dump-after="$measured" \
  "$target/release/raft_instructions" >"$dir/names" 2>"$dir/log"; then
  cat -- "$dir/log" >&2
  exit 1
fi

# Instructions per operation, tab, name.
n=0
while IFS=$'\t' read -r operations name; do
  n=$((n + 1))
  total=$(sed -n 's/^totals: //p' "$dir/counts.$n")
  awk -v total="$total" -v operations="$operations" -v name="$name" \
    'BEGIN { printf "%.1f\t%s\n", total / operations, name }'
done <"$dir/names" >"$dir/counted"

if ((update)); then
  {
    echo "# Instructions per operation, as perf/instructions.sh --update counted them."
    echo "# $compiler"
    cat -- "$dir/counted"
  } >"$expected"
  cat -- "$dir/counted"
  echo "instructions.sh: written to perf/instructions.txt"
  exit 0
fi

counted_with=$(sed -n 's/^# \(rustc .*\)/\1/p' "$expected")
code=0
awk -F '\t' -v tolerance="$tolerance_percent" '
  FNR == 1 { file++; if (file == 2) printf "%12s %12s %9s\n", "expected", "counted", "" }
  /^#/ { next }
  file == 1 { expected[$2] = $1; next }
  !($2 in expected) {
    printf "%12s %12.1f %9s  %s\n", "", $1, "NEW", $2
    wrong++
    next
  }
  {
    off = 100 * ($1 / expected[$2] - 1)
    bad = off > tolerance || off < -tolerance
    wrong += bad
    printf "%12.1f %12.1f %+8.1f%%  %s%s\n", expected[$2], $1, off, $2, bad ? "  <-- differs" : ""
    delete expected[$2]
  }
  END {
    for (name in expected) {
      printf "%12.1f %12s %9s  %s\n", expected[name], "", "GONE", name
      wrong++
    }
    exit wrong > 0
  }' "$expected" "$dir/counted" || code=1

if [[ $counted_with != "$compiler" ]]; then
  echo "instructions.sh: not checked: the expected counts are of $counted_with, this is $compiler"
elif ((code)); then
  echo "instructions.sh: counts differ by more than $tolerance_percent %. If that is meant:" \
    "perf/instructions.sh --update, and commit perf/instructions.txt" >&2
  exit 1
else
  echo "instructions.sh: all counts within $tolerance_percent %"
fi
