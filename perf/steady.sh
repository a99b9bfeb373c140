#!/usr/bin/env bash
# Whether a long run gets slower, dearer or larger: updates for ten minutes, with the
# snapshots and the recycling of the log that come with them, and the same on redis.
#
#   perf/steady.sh [OPTIONS]
#
#   --seconds S      how long in all, for each system (600)
#   --interval S     the step of the table (10)
#   --connections N  (64)
#   --nodes N        (3)
#   --keys N         (100000)
#   --systems LIST   of ours, redis (both; redis is left out if it is not installed)
#   --port P         the first of the ports that are used (18400)
#   --bin DIR        programs that are there, instead of a build
#
# Each interval is a run of the generator of its own (raft_bench; redis-benchmark),
# so that both systems are measured in the same way. CPU time is user and system, of all
# processes of the system; memory is anonymous memory (RssAnon), of each process.
# redis syncs its log before it answers and rewrites it when it has doubled, as it comes.
# What grows is told by the medians of the first and the last third. Prints Markdown.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
. "$(dirname -- "${BASH_SOURCE[0]}")/redis.sh"

seconds=600 interval=10 connections=64 nodes=3 keys=100000 systems=ours,redis
# More than this between the thirds is growth; less is what one run differs from another.
growth_percent=10
while (($#)); do
  case $1 in
  --help | -h)
    show_help
    exit
    ;;
  --seconds | --interval | --connections | --nodes | --keys | --systems | --port | --bin)
    (($# > 1)) || wrong_usage "$1 needs a value"
    declare "${1#--}=$2"
    shift 2
    ;;
  *) wrong_usage "what is $1?" ;;
  esac
done
whole seconds interval connections nodes keys port
IFS=, read -ra systems <<<"$systems"
steps=$((seconds / interval))
((steps > 2)) || wrong_usage '--seconds has to be three intervals or more'

# Anonymous memory of each process in MiB: `12 34 56`.
memory_of() {
  local pid all=()
  for pid in "$@"; do all+=("$(awk -v kib="$(anonymous_kib "$pid")" 'BEGIN { printf "%.1f", kib / 1024 }')"); done
  echo "${all[*]}"
}

# Each prints `OPERATIONS OPS/S P50 P99 P99.9` in µs, after an interval of load.
load_ours() {
  local json name figures=()
  json=$(bench steady "$interval" --warm-up 0 --connections "$connections" --keys "$keys")
  for name in operations per_second p50_us p99_us p999_us; do figures+=("$(field "$name" "$json")"); done
  echo "${figures[*]}"
}

load_redis() { redis_run "$redis_port" set "$connections" 1 "$redis_rate" "$interval" "$keys" 100; }

snapshots_of_ours() { grep -hc 'snapshot taken' "$dir"/steady/node_*.log | paste -sd ' '; }

# Measures a system: measure NAME PROCESS…; appends to $dir/NAME:
# step ops/s p50 p99 p99.9 CPU_µs_per_op memory_of_each…
measure() {
  local name=$1 step before after figures operations rest
  shift
  for ((step = 1; step <= steps; step++)); do
    before=$(cpu_us "$@")
    figures=$("load_$name")
    after=$(cpu_us "$@")
    read -r operations rest <<<"$figures"
    [[ $operations =~ ^[1-9][0-9]*$ ]] || fail "$name has answered nothing"
    if [[ $name == redis ]]; then redis_rate=${rest%% *}; fi
    awk -v step="$step" -v rest="$rest" -v us=$((after - before)) -v n="$operations" \
      -v memory="$(memory_of "$@")" 'BEGIN { printf "%d %s %.2f %s\n", step, rest, us / n, memory }' >>"$dir/$name.rows"
    ((step % 6)) || say "$name: $((step * interval)) of $seconds s, ${rest%% *}/s"
  done
}

report() {
  echo
  echo "| $1, until s | ops/s | p50 µs | p99 µs | p99.9 µs | p99.9 / p50 | CPU µs/op, all processes | anonymous memory, MiB, each process |"
  echo '|---|---|---|---|---|---|---|---|'
  awk -v interval="$interval" '{
    memory = $7
    for (n = 8; n <= NF; n++) memory = memory " · " $n
    printf "| %d | %.0f | %.0f | %.0f | %.0f | %.1f | %.1f | %s |\n", $1 * interval, $2, $3, $4, $5, $5 / ($3 > 0 ? $3 : 1), $6, memory
  }' "$dir/$1.rows"
  echo
  verdict "$1" 'CPU µs/op' 6 "$growth_percent"
  # How the machine does meets latency far more than what an operation costs.
  verdict "$1" 'p50 µs' 3
  verdict "$1" 'p99.9 µs' 5
  local column columns
  columns=$(awk 'NR == 1 { print NF }' "$dir/$1.rows")
  for ((column = 7; column <= columns; column++)); do
    verdict "$1" "memory of process $((column - 7)), MiB" "$column" "$growth_percent"
  done
}

# Says how a column has changed, and with a fourth argument whether it grows: by more
# than so many percent.
verdict() {
  local third=$((steps / 3)) first last
  first=$(head -n "$third" "$dir/$1.rows" | awk -v c="$3" '{ print $c }' | median)
  last=$(tail -n "$third" "$dir/$1.rows" | awk -v c="$3" '{ print $c }' | median)
  awk -v what="$2" -v a="$first" -v b="$last" -v most="${4:-}" 'BEGIN {
    change = 100 * (b / (a > 0 ? a : 1) - 1)
    grows = most == "" ? "" : change > most + 0 ? ": **grows**" : ": does not grow"
    printf "- %s: %.1f in the first third, %.1f in the last (%+.0f %%)%s\n", what, a, b, change, grows
  }'
}

measure_ours() {
  local pids
  say "ours: $nodes nodes"
  start_cluster steady "$nodes" "$port"
  fill steady "$keys" 3 120 16
  read -ra pids <<<"${cluster_pids[steady]}"
  measure ours "${pids[@]}"
  report ours
  echo "- snapshots taken, by node: $(snapshots_of_ours)"
  stop_cluster steady
}

measure_redis() {
  redis_port=$((port + 20))
  say 'redis'
  start_redis "$redis_port" "$keys" 100 'auto-aof-rewrite-percentage 100'
  redis_rate=$(redis_run "$redis_port" set "$connections" 1 2000 2 "$keys" 100 | cut -d ' ' -f 2)
  measure redis "$redis_pid"
  report redis
  end_processes "$redis_pid"
  forget "$redis_pid"
}

for system in "${systems[@]}"; do
  [[ $system == ours || $system == redis ]] || wrong_usage "no such system: $system"
done
begin
build
echo "$(machine). Updates, $connections connections with one request in flight each, $keys keys of 16 bytes, values of 100 bytes."
for system in "${systems[@]}"; do
  if [[ $system == redis ]] && ! has_redis; then continue; fi
  "measure_$system"
done
