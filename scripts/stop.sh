#!/usr/bin/env bash
# Ends the nodes that run in this folder, and no others.
set -euo pipefail

dir=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/nodes.sh
source "$dir/nodes.sh"

# How long a node has to end by itself before it is killed.
patience_s=10

echo "Stopping all Raft nodes..."
declare -A waiting=()
while read -r pid n; do
  # It may have ended by itself.
  kill -TERM "$pid" 2>/dev/null || true
  waiting[$pid]=$n
done < <(nodes_of "$dir")

if ((${#waiting[@]} == 0)); then
  echo "No Raft node runs in $dir."
  exit 0
fi

# Says which of `waiting` have ended, and leaves the others in it.
look() {
  local pid
  for pid in "${!waiting[@]}"; do
    if ! is_node_of "$dir" "$pid"; then
      echo "Raft node ${waiting[$pid]} (PID $pid) stopped."
      unset "waiting[$pid]"
    fi
  done
}

wait_until() {
  while look && ((${#waiting[@]} > 0)) && ((SECONDS < $1)); do
    sleep 0.05
  done
}

wait_until $((SECONDS + patience_s))
for pid in "${!waiting[@]}"; do
  echo "Raft node ${waiting[$pid]} (PID $pid) did not end within ${patience_s} s, killing it."
  kill -KILL "$pid" 2>/dev/null || true
done
wait_until $((SECONDS + patience_s))
if ((${#waiting[@]} > 0)); then
  echo "stop.sh: still there: ${!waiting[*]}" >&2
  exit 1
fi
echo "All Raft nodes stopped."
