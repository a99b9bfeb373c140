#!/usr/bin/env bash
# Runs the tests of the memory pool and of what lies on it under memory checkers,
# with the pool passing each block through to malloc, so that they see every one.
#
#   scripts/check_memory.sh [FILTER…]     default: the tests of mem::
#
# valgrind finds leaks, reads of uninitialised memory, use after free; AddressSanitizer
# (nightly Rust) also finds overflows on the stack. What is not installed is skipped,
# and said so. SKIP_VALGRIND=1 or SKIP_ASAN=1 leaves one out.
set -euo pipefail
cd "$(dirname "$0")/.."

filters=("$@")
[ ${#filters[@]} -gt 0 ] || filters=(mem::)
# With --target the flags stay away from build scripts and procedural macros.
host="$(rustc -vV | sed -n 's/^host: //p')"

run_valgrind() {
  if [ -n "${SKIP_VALGRIND:-}" ]; then echo '== valgrind: skipped, as asked'; return; fi
  if ! command -v valgrind >/dev/null; then
    echo '== valgrind: skipped, it is not installed (apt-get install valgrind)'; return
  fi
  echo '== valgrind'
  # --error-exitcode counts definite leaks too; the test harness leaves reachable memory.
  local runner="CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUNNER"
  env "$runner=valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --show-leak-kinds=definite" \
    RUSTFLAGS='--cfg mem_passthrough' \
    cargo test --lib --locked --target "$host" -- --test-threads=1 "${filters[@]}"
}

run_asan() {
  if [ -n "${SKIP_ASAN:-}" ]; then echo '== AddressSanitizer: skipped, as asked'; return; fi
  if ! cargo +nightly --version >/dev/null 2>&1; then
    echo '== AddressSanitizer: skipped, nightly Rust is not installed (rustup toolchain install nightly)'; return
  fi
  echo '== AddressSanitizer'
  RUSTFLAGS='--cfg mem_passthrough -Zsanitizer=address' \
  ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:allocator_may_return_null=1}" \
    cargo +nightly test --lib --locked --target "$host" -- --test-threads=2 "${filters[@]}"
}

run_valgrind
run_asan
echo '== memory checks done'
