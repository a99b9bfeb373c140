#!/usr/bin/env bash
# How throughput, latency and CPU time for each operation grow with event loops,
# connections, nodes, the size of values and the number of keys.
#
#   perf/scaling.sh [OPTIONS]
#
#   --only LIST         of reactors, connections, nodes, values, keys (all of them)
#   --reactors LIST     event loops of each node (1 to the number of cores)
#   --connections LIST  (1,4,16,64,256,1000,4000,10000)
#   --nodes LIST        (1,3,5,7)
#   --values LIST       bytes of a value (16,100,1024,10240,102400,1048576)
#   --keys LIST         (10000,100000,1000000)
#   --cluster N         nodes, where that is not what varies (3)
#   --seconds S         of each measurement (5)
#   --fill S            seconds at most to write the keys before (600)
#   --plots DIR         where scaling-*.svg go (perf/); none with --plots ''
#   --port P            the first of the ports that are used (18400)
#   --bin DIR           programs that are there, instead of a build
#
# Unless it varies: three nodes, event loops as by default, 64 connections with one
# request in flight on each, 100,000 keys of 16 bytes, values of 100 bytes; updates, then
# gets. 10,000,000 keys on three nodes take 6 GiB of memory and 10 minutes to write.
# Takes 15 minutes with what is given. Prints Markdown.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

only=reactors,connections,nodes,values,keys
reactors=$(seq -s, 1 "$(nproc)")
connections=1,4,16,64,256,1000,4000,10000
nodes=1,3,5,7
values=16,100,1024,10240,102400,1048576
keys=10000,100000,1000000
cluster=3 seconds=5 fill=600
plots=$root/perf
while (($#)); do
  case $1 in
  --help | -h)
    show_help
    exit
    ;;
  --only | --reactors | --connections | --nodes | --values | --keys | --cluster | --seconds | \
    --fill | --plots | --port | --bin)
    (($# > 1)) || wrong_usage "$1 needs a value"
    declare "${1#--}=$2"
    shift 2
    ;;
  *) wrong_usage "what is $1?" ;;
  esac
done

whole cluster seconds fill port

# Begins the table of a dimension: TITLE SETTING NAME_OF_X [NAMES OF MORE COLUMNS].
table_head() {
  local name more='' rule=''
  : >"$dir/points"
  printf '\n### %s\n\n%s.\n\n' "$1" "$2"
  for name in "${@:4}"; do more+=" $name |" rule+='---|'; done
  echo "| | $3 | ops/s | p50 µs | p99 µs | p99.9 µs | ops per sync | CPU µs/op, leader | all nodes | generator | errors |$more"
  echo "|---|---|---|---|---|---|---|---|---|---|---|$rule"
}

# Measures updates and gets on a cluster, a row of the table each:
# rows CLUSTER LABEL X MORE [OPTIONS OF raft_bench]. MORE is a command that prints what
# stands in the columns that only this table has.
rows() {
  local name=$1 label=$2 x=$3 more=$4 op json
  shift 4
  for op in update get; do
    say "$op: $label"
    if ! json=$(bench "$name" "$seconds" --op "$op" "$@"); then
      echo "| $op | $label | nothing was answered |"
      continue
    fi
    row "$op" "$label" "$json" "$($more "$name" "$json")"
    points "$op" "$x" "$json"
  done
}

row() {
  awk -v op="$1" -v label="$2" -v more="$4" -v r="$(field per_second "$3")" -v o="$(field operations "$3")" \
    -v y="$(field leader_syncs "$3")" -v p50="$(field p50_us "$3")" -v p99="$(field p99_us "$3")" \
    -v p999="$(field p999_us "$3")" -v l="$(field leader_cpu_us "$3")" -v s="$(field servers_cpu_us "$3")" \
    -v g="$(field generator_cpu_us "$3")" -v e="$(field errors "$3")" 'BEGIN {
      per_sync = op == "update" && y + 0 > 0 ? sprintf("%.1f", o / y) : "–"
      printf "| %s | %s | %.0f | %.0f | %.0f | %.0f | %s | %.1f | %.1f | %.1f | %d |%s\n",
        op, label, r, p50, p99, p999, per_sync, l, s, g, e, more == "" ? "" : " " more " |"
    }'
}

points() {
  {
    printf 'operations a second\t%s\t%s\t%s\n' "$1" "$2" "$(field per_second "$3")"
    printf 'latency, µs\t%s, median\t%s\t%s\n' "$1" "$2" "$(field p50_us "$3")"
    printf 'latency, µs\t%s, 99 %%\t%s\t%s\n' "$1" "$2" "$(field p99_us "$3")"
    printf 'CPU µs for each operation, all nodes\t%s\t%s\t%s\n' "$1" "$2" "$(field servers_cpu_us "$3")"
  } >>"$dir/points"
}

# plot NAME TITLE X_NAME LOG_X
plot() {
  [[ -n $plots && -s $dir/points ]] || return 0
  awk -v title="$2" -v x_name="$3" -v log_x="$4" -v log_y='latency, µs' -v note="$(machine)" \
    -f "$root/perf/plot.awk" "$dir/points" >"$dir/plot.svg"
  mv -- "$dir/plot.svg" "$plots/scaling-$1.svg"
}

nothing() { :; }

# More keys than this would make the data of large values too large: 256 MiB.
keys_for() { echo $(($1 * 100000 > 268435456 ? 268435456 / $1 : 100000)); }

by_reactors() {
  local list count pin
  IFS=, read -ra list <<<"$reactors"
  table_head 'Event loops' "$cluster nodes on one machine, 64 connections; pinned is with \`--pin-cores\`" 'event loops'
  for count in "${list[@]}"; do
    for pin in '' --pin-cores; do
      # shellcheck disable=SC2086 # none or one
      start_cluster scaled "$cluster" "$port" --reactors "$count" $pin
      fill scaled 100000 2 60 16
      if [[ -z $pin ]]; then
        rows scaled "$count" "$count" nothing
      else
        mv -- "$dir/points" "$dir/unpinned"
        rows scaled "$count, pinned" "$count" nothing
        mv -- "$dir/unpinned" "$dir/points"
      fi
      stop_cluster scaled
    done
  done
  plot reactors 'Over the number of event loops' 'event loops of each node' 0
}

by_connections() {
  local list count limit
  IFS=, read -ra list <<<"$connections"
  limit=$(ulimit -n)
  table_head 'Connections' "$cluster nodes, one request in flight on each connection" connections
  start_cluster scaled "$cluster" "$port"
  fill scaled 100000 3 60 16
  for count in "${list[@]}"; do
    if ((count + 100 > limit)); then
      say "$count connections are left out: a process may have $limit files open (ulimit -n)"
      continue
    fi
    rows scaled "$count" "$count" nothing --connections "$count" --warm-up $((1 + count / 2000))
  done
  stop_cluster scaled
  plot connections 'Over the number of connections' connections 1
}

by_nodes() {
  local list count
  IFS=, read -ra list <<<"$nodes"
  table_head 'Nodes' '64 connections; all nodes share one machine' nodes
  for count in "${list[@]}"; do
    start_cluster scaled "$count" "$port"
    fill scaled 100000 2 60 16
    rows scaled "$count" "$count" nothing
    stop_cluster scaled
  done
  plot nodes 'Over the number of nodes' 'nodes on one machine' 0
}

by_values() {
  local list bytes count
  IFS=, read -ra list <<<"$values"
  # shellcheck disable=SC2317 # rows calls it
  megabytes() { awk -v r="$(field per_second "$2")" -v b="$bytes" 'BEGIN { printf "%.1f", r * b / 1e6 }'; }
  table_head 'Values' "$cluster nodes, 64 connections, as many keys as make 256 MiB, 100,000 at most" bytes MB/s
  for bytes in "${list[@]}"; do
    count=$(keys_for "$bytes")
    start_cluster scaled "$cluster" "$port"
    # Enough in flight for small values, not more than the nodes take for large ones.
    fill scaled "$count" 2 60 $((bytes > 10240 ? 1 : 16)) --value-bytes "$bytes"
    rows scaled "$bytes" "$bytes" megabytes --value-bytes "$bytes" --keys "$count"
    stop_cluster scaled
  done
  plot values 'Over the size of values' 'bytes of a value' 1
}

by_keys() {
  local list count
  IFS=, read -ra list <<<"$keys"
  # shellcheck disable=SC2317 # rows calls it
  memory() {
    local json=$2 pid
    pid=$(leader_pid "$1")
    awk -v kib="$(anonymous_kib "$pid")" -v missing="$(field not_found "$json")" -v n="$(field operations "$json")" \
      'BEGIN { printf "%.0f | %.1f %%", kib / 1024, 100 * (1 - missing / (n ? n : 1)) }'
  }
  table_head 'Keys' "$cluster nodes, 64 connections" keys 'leader, MiB' 'found'
  for count in "${list[@]}"; do
    start_cluster scaled "$cluster" "$port"
    say "writing $count keys"
    fill scaled "$count" 3 "$fill" 16
    rows scaled "$count" "$count" memory --keys "$count"
    stop_cluster scaled
  done
  plot keys 'Over the number of keys' keys 1
}

IFS=, read -ra dimensions <<<"$only"
for dimension in "${dimensions[@]}"; do
  case $dimension in
  reactors | connections | nodes | values | keys) ;;
  *) wrong_usage "--only: what is $dimension?" ;;
  esac
done
begin
build
echo "$(machine). Closed loop, $seconds s each, the generator beside the nodes; CPU time is user and system."
for dimension in "${dimensions[@]}"; do "by_$dimension"; done
