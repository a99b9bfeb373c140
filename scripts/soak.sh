#!/usr/bin/env bash
# Runs every test on real processes with the full counts of what the project promises, and prints a table
# for docs/TESTING.md. Takes an hour or two; `cargo test` runs the same tests with small counts.
#
#   scripts/soak.sh                     all of them
#   scripts/soak.sh failover catch_up   these only
#
# Any count can be set from outside, as in RAFTKV_SECONDS=3600 scripts/soak.sh linearizable.
# Progress and failures go to stderr and to target/soak/, the table to stdout.
set -euo pipefail
cd "$(dirname "$0")/.."

export RAFTKV_ROUNDS="${RAFTKV_ROUNDS:-20}"                       # kills and pauses of the leader
export RAFTKV_KILL_ALL_ROUNDS="${RAFTKV_KILL_ALL_ROUNDS:-50}"     # kills of all seven at once
export RAFTKV_SECONDS="${RAFTKV_SECONDS:-300}"                    # of a history under disturbances, of two tests
export RAFTKV_AWAY_WRITES="${RAFTKV_AWAY_WRITES:-200000}"         # while a node is away
export RAFTKV_TRANSFER_MIB="${RAFTKV_TRANSFER_MIB:-64}"           # of a snapshot that is interrupted
export RAFTKV_IDLE_CONNECTIONS="${RAFTKV_IDLE_CONNECTIONS:-5000}"
export RAFTKV_TRICKLE_MS="${RAFTKV_TRICKLE_MS:-1000}"             # between two bytes
export RAFTKV_STARTS="${RAFTKV_STARTS:-20}"                       # of a fresh cluster
export RAFTKV_AGEING_UPDATES="${RAFTKV_AGEING_UPDATES:-100000}"   # in each of ten parts
export RAFTKV_TRACED_PUTS="${RAFTKV_TRACED_PUTS:-1000}"
export RAFTKV_KILLS="${RAFTKV_KILLS:-100}"                         # kills whose fail-over is timed
export RAFTKV_LARGE_ROUNDS="${RAFTKV_LARGE_ROUNDS:-30}"             # rounds of values of 8 MiB
export RAFTKV_LOAD_SECONDS="${RAFTKV_LOAD_SECONDS:-300}"           # of load that moves no leadership
export RAFTKV_SEEDS="${RAFTKV_SEEDS:-20000}"                       # of the simulator
export RAFTKV_STATES="${RAFTKV_STATES:-2000000}"                   # of each scenario of the explorer

tests=("$@")
if [ ${#tests[@]} -eq 0 ]; then
    tests=(layers wire_format start_order membership elections pin_cores bad_input bad_use failover linearizable namespaces catch_up backup full_disk shortages hung_disk synced_answers ageing scripts simulator explorer)
fi
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true

logs=target/soak
mkdir -p "$logs"
selected=()
for name in "${tests[@]}"; do selected+=(--test "$name"); done
cargo test --release --locked --no-run "${selected[@]}" >&2

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
git diff --quiet HEAD 2>/dev/null || commit="$commit, changed"
rows=()
failed=0
for name in "${tests[@]}"; do
    echo "== $name" >&2
    begin=$SECONDS
    # One after the other, so that no test measures its neighbour.
    if cargo test --release --locked --test "$name" -- --nocapture --test-threads=1 \
        >"$logs/$name.log" 2>&1; then
        outcome=ok
    else
        outcome=FAILED
        failed=1
        tail -n 60 "$logs/$name.log" >&2
    fi
    if grep -q '^skipped: ' "$logs/$name.log"; then
        outcome="$outcome, in part $(grep -m1 -o 'skipped: .*' "$logs/$name.log")"
    fi
    passed=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 passed, \2 failed/p' "$logs/$name.log")
    # `--nocapture` may put a figure behind the name of its test, on the same line.
    figures=$(sed -n 's/.*figure: //p' "$logs/$name.log" | paste -sd ';' - | sed 's/;/; /g')
    rows+=("| $name | $outcome | ${passed:-none ended} | $((SECONDS - begin)) s | $figures |")
done

echo "### $(date -u +%Y-%m-%d), commit $commit"
echo
echo "$(uname -sr), $(nproc) cores; ROUNDS=$RAFTKV_ROUNDS, KILL_ALL_ROUNDS=$RAFTKV_KILL_ALL_ROUNDS," \
    "SECONDS=$RAFTKV_SECONDS, AWAY_WRITES=$RAFTKV_AWAY_WRITES, TRANSFER_MIB=$RAFTKV_TRANSFER_MIB," \
    "IDLE_CONNECTIONS=$RAFTKV_IDLE_CONNECTIONS, TRICKLE_MS=$RAFTKV_TRICKLE_MS, STARTS=$RAFTKV_STARTS," \
    "AGEING_UPDATES=$RAFTKV_AGEING_UPDATES, TRACED_PUTS=$RAFTKV_TRACED_PUTS"
echo
echo "| test | outcome | tests | time | figures |"
echo "|---|---|---|---|---|"
printf '%s\n' "${rows[@]}"
exit "$failed"
