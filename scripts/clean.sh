#!/usr/bin/env bash
# Removes what the nodes of this folder wrote, data and logs. There is no way back.
set -euo pipefail

dir=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=scripts/nodes.sh
source "$dir/nodes.sh"

running=$(nodes_of "$dir")
if [[ -n $running ]]; then
  echo "clean.sh: nodes are running here; ./stop.sh first" >&2
  exit 1
fi

cd -- "$dir"
shopt -s nullglob
for data in raftnode_*; do
  # Nothing but a node's own directory.
  [[ $data =~ ^raftnode_[0-9]+$ && -d $data && ! -L $data ]] || continue
  rm -rf -- "$data"
  echo "Removed $data/"
done
if [[ -d logs && ! -L logs ]]; then
  rm -f -- logs/node_*.log
  # What somebody else put there stays.
  rmdir --ignore-fail-on-non-empty -- logs
  echo "Removed the logs."
fi
