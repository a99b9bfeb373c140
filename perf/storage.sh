#!/usr/bin/env bash
# What the storage costs: reading the log back, restarts, snapshots beside writes, bytes
# to the device.
#
#   perf/storage.sh [OPTIONS]
#
#   --only LIST      of recovery, restart, snapshots, device, log (all of them)
#   --nodes N        of clusters; one for restart (3)
#   --keys N         for restart and snapshots, of 16 bytes with values of 100 (1000000)
#   --seconds S      of each measurement (4)
#   --pairs N        of runs with and without snapshots; of restarts (9)
#   --rates LIST     updates a second beside snapshots; 0: as many as 64 connections ask for
#                    (5000,10000,0)
#   --port P         the first of the ports that are used (18400)
#   --bin DIR        programs that are there, instead of a build
#
# recovery   the bench of that name: a log of 1 GiB in records of 1 KiB, beside `cat` and a
#            plain CRC-32 of the same files.
# restart    from the start of the process to the first answer, with a snapshot of all
#            keys and the log behind it; and the most memory that it took.
# snapshots  latency of updates, open loop, while all nodes take a snapshot at the same
#            time, and without, in turn on one cluster.
# device     bytes written to the block device for each byte of key and value, on each node,
#            by the device's own count: whatever else is written there counts too.
# log        the same, and CPU time, with a log that only grows.
# Prints Markdown; figures are medians.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

only=recovery,restart,snapshots,device,log
nodes=3 keys=1000000 seconds=4 pairs=9 rates=5000,10000,0
while (($#)); do
  case $1 in
  --help | -h)
    show_help
    exit
    ;;
  --only | --nodes | --keys | --seconds | --pairs | --rates | --port | --bin)
    (($# > 1)) || wrong_usage "$1 needs a value"
    declare "${1#--}=$2"
    shift 2
    ;;
  *) wrong_usage "what is $1?" ;;
  esac
done
whole nodes keys seconds pairs port
IFS=, read -ra parts <<<"$only"

column() { awk -v c="$1" '{ print $c }' "$2" | median; }

recovery() {
  printf '\n### Reading the log\n\n'
  TMPDIR=$dir cargo bench --locked --quiet --manifest-path "$root/Cargo.toml" --bench recovery -- --rounds "$pairs"
}

restart() {
  local run pid begin ms data
  printf '\n### Restart\n\n'
  start_cluster restarted 1 "$port"
  say "writing $keys keys"
  fill restarted "$keys" 4 600 16
  snapshot_everywhere restarted 1
  until_no_snapshot restarted
  local snapshot
  snapshot=$(du -cb "$dir"/restarted/raftnode_0/*.snap | awk 'END { print $1 }')
  read -r pid <<<"${cluster_pids[restarted]}"
  for ((run = 0; run < pairs; run++)); do
    end_processes "$pid"
    forget "$pid"
    begin=$(date +%s%N)
    "$bin/raft_example" 0 --cluster "$dir/restarted/cluster.toml" --data-dir "$dir/restarted" --log-level info \
      >"$dir/restarted/again.log" 2>&1 </dev/null &
    pid=$!
    started+=("$pid")
    until_answered "$port"
    ms=$((($(date +%s%N) - begin) / 1000000))
    data=$(sed -n 's/.*recovered: .*entries=\([0-9]*\).*/\1/p' "$dir/restarted/again.log")
    awk -v ms="$ms" -v entries="$data" '/^VmHWM:/ { peak = $2 / 1024 } /^VmRSS:/ { now = $2 / 1024 }
      END { print ms, peak, now, entries }' "/proc/$pid/status" >>"$dir/restarts"
  done
  echo "$pairs restarts; each drops what the page cache has of the directory, and reads it from the device."
  echo
  echo '| until the first answer, ms | memory at most, MiB | afterwards | entries in the log | snapshots on disk, MiB |'
  echo '|---|---|---|---|---|'
  awk -v ms="$(column 1 "$dir/restarts")" -v peak="$(column 2 "$dir/restarts")" -v now="$(column 3 "$dir/restarts")" \
    -v entries="$(column 4 "$dir/restarts")" -v snapshot="$snapshot" \
    'BEGIN { printf "| %.0f | %.0f | %.0f | %d | %.0f |\n", ms, peak, now, entries, snapshot / 1048576 }'
  cluster_pids[restarted]=$pid
  stop_cluster restarted
}

# Waits until a node answers a get, of a key that is not there.
until_answered() {
  local code deadline=$((SECONDS + 60))
  while :; do
    code=0
    "$bin/raft_client" --addr "127.0.0.1:$(($1 + 1))" --timeout 1 get missing >/dev/null 2>&1 || code=$?
    ((code != 1)) || return 0
    ((SECONDS < deadline)) || fail 'the node does not answer'
    sleep 0.005
  done
}

# Has each node of a cluster begin a snapshot: whoever asks for a backup needs one, and goes away.
snapshot_everywhere() {
  local node asking=()
  for ((node = 0; node < $2; node++)); do
    timeout 0.3 "$bin/raft_client" --addr "127.0.0.1:$((port + 2 * node + 1))" backup --force "$dir/asked.$node" \
      >/dev/null 2>&1 &
    asking+=($!)
  done
  wait "${asking[@]}" || true
}

until_no_snapshot() {
  local deadline=$((SECONDS + 300))
  while compgen -G "$dir/$1/*/*.draft" >/dev/null; do
    ((SECONDS < deadline)) || fail 'a snapshot does not end'
    sleep 0.1
  done
}

snapshots() {
  local list rate run options
  IFS=, read -ra list <<<"$rates"
  printf '\n### Updates beside snapshots\n\n'
  echo "$nodes nodes with $keys keys take a snapshot at the same time; $pairs pairs of $seconds s."
  echo
  echo '| updates a second | without: p50 µs | p99 | p99.9 | with: p50 | p99 | p99.9 | p99 with / without |'
  echo '|---|---|---|---|---|---|---|---|'
  start_cluster beside "$nodes" "$port"
  say "writing $keys keys"
  fill beside "$keys" 4 600 16
  for rate in "${list[@]}"; do
    options=()
    ((rate == 0)) || options=(--rate "$rate")
    : >"$dir/beside.rows"
    for ((run = 0; run < pairs; run++)); do
      say "snapshots: rate $rate, pair $((run + 1)) of $pairs"
      until_no_snapshot beside
      sleep 1
      beside without "${options[@]}"
      snapshot_everywhere beside "$nodes"
      beside with "${options[@]}"
      paste -d ' ' "$dir/without" "$dir/with" >>"$dir/beside.rows"
    done
    awk '{ print $0, $7 / $3 }' "$dir/beside.rows" >"$dir/ratios"
    awk -v rate="$([[ $rate == 0 ]] && echo "$(column 1 "$dir/ratios") (closed loop)" || echo "$rate")" \
      -v a="$(column 2 "$dir/ratios")" -v b="$(column 3 "$dir/ratios")" -v c="$(column 4 "$dir/ratios")" \
      -v d="$(column 6 "$dir/ratios")" -v e="$(column 7 "$dir/ratios")" -v f="$(column 8 "$dir/ratios")" \
      -v r="$(column 9 "$dir/ratios")" \
      'BEGIN { printf "| %s | %.0f | %.0f | %.0f | %.0f | %.0f | %.0f | %.2f |\n", rate, a, b, c, d, e, f, r }'
  done
  stop_cluster beside
}

# Measures updates and leaves `OPS/S P50 P99 P99.9` in the file of that name.
beside() {
  local json name figures=()
  json=$(bench beside "$seconds" --warm-up 0.2 --keys "$keys" "${@:2}")
  for name in per_second p50_us p99_us p999_us; do figures+=("$(field "$name" "$json")"); done
  echo "${figures[*]}" >"$dir/$1"
}

# Bytes that the device below the data has written since it was there.
device_bytes() {
  local number
  number=$(mountpoint -d "$(df --output=target "$dir" | tail -n 1)") || fail "$dir lies on no block device"
  sync -f "$dir"
  awk '{ printf "%.0f", $7 * 512 }' "/sys/dev/block/$number/stat"
}

# Prints `OPERATIONS OPS/S CPU_µS_ON_ALL_NODES BYTES_TO_THE_DEVICE` of a run: written NAME SECONDS [OPTIONS OF raft_bench].
written() {
  local before json
  before=$(device_bytes)
  json=$(bench "$1" "$2" --warm-up 0 "${@:3}")
  echo "$(field operations "$json") $(field per_second "$json") $(field servers_cpu_us "$json") $(($(device_bytes) - before))"
}

device() {
  local bytes clients count n rate cpu device
  printf '\n### Bytes to the device\n\n'
  echo "$nodes nodes on one device, each with snapshots as they come; $((seconds * 3)) s each, all that waits in the page cache brought there before and after."
  echo
  echo '| bytes of a value | clients | updates a second | bytes to the device an update and node | per byte of key and value |'
  echo '|---|---|---|---|---|'
  for bytes in 100 1024 65536; do
    count=$((bytes > 1024 ? 1000 : 100000))
    start_cluster written "$nodes" "$port"
    fill written "$count" 2 60 $((bytes > 10240 ? 1 : 16)) --value-bytes "$bytes"
    for clients in 1 16 256; do
      say "device: $bytes bytes, $clients clients"
      read -r n rate cpu device < <(written written $((seconds * 3)) --connections "$clients" --keys "$count" --value-bytes "$bytes")
      awk -v bytes="$bytes" -v clients="$clients" -v n="$n" -v rate="$rate" -v device="$device" -v nodes="$nodes" 'BEGIN {
        each = device / n / nodes
        printf "| %d | %d | %.0f | %.0f | %.2f |\n", bytes, clients, rate, each, each / (bytes + 16)
      }'
    done
    stop_cluster written
  done
}

log() {
  local step n rate cpu device size
  printf '\n### A log that only grows\n\n'
  echo "$nodes nodes that take no snapshots; updates of 1 KiB, 64 clients."
  echo
  echo '| log, MiB | updates a second | CPU µs an update, all nodes | bytes to the device an update and node |'
  echo '|---|---|---|---|'
  start_cluster grown "$nodes" "$port" --snapshot-log-bytes $((1 << 40))
  for ((step = 0; step < 6; step++)); do
    read -r n rate cpu device < <(written grown $((seconds * 2)) --connections 64 --value-bytes 1024)
    size=$(du -cb "$dir"/grown/raftnode_0/*.wal | awk 'END { print $1 / 1048576 }')
    awk -v size="$size" -v n="$n" -v rate="$rate" -v cpu="$cpu" -v device="$device" -v nodes="$nodes" \
      'BEGIN { printf "| %.0f | %.0f | %.1f | %.0f |\n", size, rate, cpu, device / n / nodes }'
  done
  stop_cluster grown
}

for part in "${parts[@]}"; do
  case $part in
  recovery | restart | snapshots | device | log) ;;
  *) wrong_usage "--only: what is $part?" ;;
  esac
done
begin
build
echo "$(machine)."
for part in "${parts[@]}"; do "$part"; done
