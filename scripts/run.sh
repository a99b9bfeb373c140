#!/usr/bin/env bash
# Starts nodes 2 to 6, or those given, in the background: run.sh [N...]
# Nodes 0 and 1 are for two terminals of your own: ./raft_example 0, ./raft_example 1
set -euo pipefail

dir=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/nodes.sh
source "$dir/nodes.sh"

nodes=("$@")
(($# > 0)) || nodes=(2 3 4 5 6)

for n in "${nodes[@]}"; do
  if [[ ! $n =~ ^[0-6]$ ]]; then
    echo "run.sh: '$n' is not a node; there are 0 to 6" >&2
    exit 2
  fi
done
if [[ ! -x $dir/raft_example ]]; then
  echo "run.sh: $dir/raft_example is missing; scripts/build.sh makes it" >&2
  exit 1
fi
while read -r pid n; do
  for wanted in "${nodes[@]}"; do
    if [[ $n == "$wanted" ]]; then
      echo "run.sh: node $n is already running with PID $pid; ./stop.sh ends it" >&2
      exit 1
    fi
  done
done < <(nodes_of "$dir")

# A session of its own and nothing inherited: the node outlives this terminal, and
# nobody who waits for our output waits for the node.
start() {
  exec </dev/null >>"logs/node_$1.log" 2>&1
  local fd
  for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    ((fd <= 2)) || exec {fd}>&-
  done
  # The lines of the original are debug lines.
  exec setsid ./raft_example "$1" --log-level debug
}

cd -- "$dir"
# Logs are for whoever started the nodes, as is their data.
umask 077
mkdir -p logs
pids=()
for n in "${nodes[@]}"; do
  echo "Starting Raft node $n on port $((4396 + 2 * n))..."
  start "$n" &
  pids+=($!)
  echo "Raft node $n started with PID $!"
done

# One that cannot have its port or its directory ends at once.
sleep 0.3
failed=0
for i in "${!pids[@]}"; do
  if ! kill -0 "${pids[i]}" 2>/dev/null; then
    echo "run.sh: node ${nodes[i]} ended at once; the end of logs/node_${nodes[i]}.log:" >&2
    tail -n 3 "logs/node_${nodes[i]}.log" >&2
    failed=1
  fi
done
((failed == 0)) || exit 1
if ((${#nodes[@]} > 1)); then
  echo "All ${#nodes[@]} Raft nodes started."
fi
