#!/usr/bin/env bash
# Figures of a cluster on this machine: throughput, latency, syncs and CPU time, for
# writes and linearizable reads with 1 to 256 connections.
#   perf/figures.sh [NODES] [SECONDS]
# Prints Markdown; the tables in perf/RESULTS.md were made by it. Builds in release
# mode, runs on loopback in a temporary directory, ends what it started.
set -euo pipefail

nodes=${1:-3}
seconds=${2:-5}
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cargo build --release --quiet --manifest-path "$root/Cargo.toml" --bins
bin=${CARGO_TARGET_DIR:-$root/target}/release

dir=$(mktemp -d "${TMPDIR:-/tmp}/raftkv-figures.XXXXXX")
pids=()
clean_up() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf -- "$dir"
}
trap clean_up EXIT

base=18400
for ((id = 0; id < nodes; id++)); do
  printf '[[node]]\nid = %d\npeer = "127.0.0.1:%d"\nclient = "127.0.0.1:%d"\n\n' \
    "$id" $((base + 2 * id)) $((base + 1 + 2 * id))
done >"$dir/cluster.toml"
addrs=()
for ((id = 0; id < nodes; id++)); do
  "$bin/raft_example" "$id" --cluster "$dir/cluster.toml" --data-dir "$dir" --log-level info \
    >"$dir/node_$id.log" 2>&1 </dev/null &
  pids+=($!)
  addrs+=(--addr "127.0.0.1:$((base + 1 + 2 * id))")
done
deadline=$((SECONDS + 20))
until "$bin/raft_client" "${addrs[@]}" --timeout 1 status --json 2>/dev/null |
  grep -q '"role": "leader"'; do
  if ((SECONDS >= deadline)); then
    echo "figures.sh: no leader" >&2
    exit 1
  fi
  sleep 0.1
done

# Node 0 leads first, so its process comes first.
servers=()
for pid in "${pids[@]}"; do servers+=(--server-pid "$pid"); done
field() { sed -E "s/.*\"$1\":([0-9.]+).*/\1/" <<<"$2"; }

echo "| $nodes nodes | connections | ops/s | p50 µs | p99 µs | p99.9 µs | ops per sync | CPU µs/op, leader | all nodes | generator |"
echo "|---|---|---|---|---|---|---|---|---|---|"
for op in update get; do
  for connections in 1 16 64 256; do
    json=$("$bin/raft_bench" "${addrs[@]}" "${servers[@]}" --op "$op" \
      --connections "$connections" --seconds "$seconds" --json)
    per_sync=–
    if [[ $op == update ]]; then
      per_sync=$(awk -v o="$(field operations "$json")" -v s="$(field leader_syncs "$json")" \
        'BEGIN { printf "%.1f", o / (s ? s : 1) }')
    fi
    awk -v op="$op" -v c="$connections" -v ps="$per_sync" \
      -v r="$(field per_second "$json")" -v p50="$(field p50_us "$json")" \
      -v p99="$(field p99_us "$json")" -v p999="$(field p999_us "$json")" \
      -v l="$(field leader_cpu_us "$json")" -v s="$(field servers_cpu_us "$json")" \
      -v g="$(field generator_cpu_us "$json")" \
      'BEGIN { printf "| %s | %d | %.0f | %.0f | %.0f | %.0f | %s | %.1f | %.1f | %.1f |\n", op, c, r, p50, p99, p999, ps, l, s, g }'
  done
done
