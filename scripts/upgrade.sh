#!/usr/bin/env bash
# A rolling upgrade under load, from the last version before births and feature levels to the one
# that is checked out: builds the old programs from the repository's history, starts three nodes of
# them, restarts one after the other with the new program while a client writes, and looks for every
# acknowledged write. Prints what was seen; exit code 1 if something was lost or no upgrade came.
#
#   scripts/upgrade.sh [OLD_COMMIT]
set -euo pipefail
cd "$(dirname "$0")/.."

old_commit=${1:-dc4f37f}
work=$(mktemp -d)
pids=()
clean_up() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  git worktree remove --force "$work/old" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

git worktree add --detach "$work/old" "$old_commit" >/dev/null
echo "building $old_commit and the version that is checked out" >&2
old_target=target/old-$old_commit
cargo build --release --locked --manifest-path "$work/old/Cargo.toml" --target-dir "$old_target" \
  --bin raft_example --bin raft_client >&2
cargo build --release --locked --bin raft_example --bin raft_client >&2
old=$PWD/$old_target/release
new=$PWD/target/release

for id in 0 1 2; do
  printf '[[node]]\nid = %d\npeer = "127.0.0.1:%d"\nclient = "127.0.0.1:%d"\n' \
    "$id" $((26100 + 2 * id)) $((26101 + 2 * id))
done >"$work/cluster.toml"
start() { # ID PROGRAMS
  "$2/raft_example" "$1" --cluster "$work/cluster.toml" --data-dir "$work/data" \
    </dev/null >>"$work/log$1" 2>&1 &
  pids[$1]=$!
}
client() { "$new/raft_client" --cluster "$work/cluster.toml" "$@" </dev/null 2>/dev/null; }

for id in 0 1 2; do start "$id" "$old"; done
client --timeout 20 put first value >/dev/null

touch "$work/acknowledged" "$work/refused"
(
  n=0
  while [ ! -e "$work/stop" ]; do
    if client put "key$n" "$n" >/dev/null; then
      echo "$n" >>"$work/acknowledged"
    else
      echo "$n" >>"$work/refused"
    fi
    n=$((n + 1))
  done
) &
writer=$!

# The leader last, and in the middle of it once more with the old program: there is a way back
# until the last node has been upgraded.
for step in "1 $new" "1 $old" "1 $new" "2 $new" "0 $new"; do
  read -r id programs <<<"$step"
  kill "${pids[$id]}"
  wait "${pids[$id]}" || true
  start "$id" "$programs"
  client --timeout 20 update step "$step" >/dev/null
  sleep 1
done
touch "$work/stop"
wait "$writer"

lost=0
while read -r n; do
  [ "$(client get "key$n")" = "success: $n" ] || lost=$((lost + 1))
done <"$work/acknowledged"
levels=$(client status --json | grep -c '"level": *1' || true)
echo "acknowledged $(wc -l <"$work/acknowledged"), not acknowledged $(wc -l <"$work/refused"), lost $lost"
echo "nodes at feature level 1: $levels of 3"
[ "$lost" -eq 0 ] && [ "$levels" -eq 3 ]
