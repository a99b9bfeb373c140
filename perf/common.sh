# Sourced by the scripts of this folder: clusters on this machine, loads on them, and
# what both leave behind.
# shellcheck shell=bash

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
target=${CARGO_TARGET_DIR:-$root/target}
script=${0##*/}

bin=          # where the programs are; --bin names it, build makes it
# shellcheck disable=SC2034 # the scripts use it
port=18400    # the first of the ports that are used
dir=          # everything that is written, but for results
started=()    # processes to end
declare -A cluster_pids=() cluster_addrs=()

# Progress goes to stderr, results to stdout.
say() { printf '%s: %s\n' "$script" "$*" >&2; }
fail() {
  say "$*"
  exit 1
}
wrong_usage() {
  say "$*; try --help"
  exit 2
}
# The options of these names have to be whole numbers above 0.
whole() {
  local name
  for name; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || wrong_usage "--$name: ${!name} is not a whole number above 0"
  done
}
# The comment at the head of the script.
show_help() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"; }

# Whether the program $1 is there; else says what to install: $2.
has() {
  command -v "$1" >/dev/null && return
  say "$1 is not there ($2)"
  return 1
}

# Ends these processes, by force if they take too long, and waits until they are gone.
# A load in the background is a shell with a child, which has to end too.
end_processes() {
  local pid children=() deadline=$((SECONDS + 10))
  (($#)) || return 0
  for pid in "$@"; do
    mapfile -t -O ${#children[@]} children < <(children_of "$pid")
  done
  kill "$@" "${children[@]}" 2>/dev/null || true
  for pid in "$@"; do
    while kill -0 "$pid" 2>/dev/null; do
      ((SECONDS < deadline)) || kill -KILL "$pid" 2>/dev/null || true
      sleep 0.05
    done
  done
  wait "$@" 2>/dev/null || true
}

children_of() { tr ' ' '\n' 2>/dev/null <"/proc/$1/task/$1/children" | grep . || true; }

clean_up() {
  local code=$?
  trap - EXIT
  trap '' INT TERM
  end_processes "${started[@]}"
  if [[ -n $dir ]]; then rm -rf -- "$dir"; fi
  if ((code)); then say "ended early, with code $code"; fi
  exit "$code"
}

# Makes the directory for all data and sees to it that nothing stays. It lies on the
# file system of the checkout, for /tmp is often memory, where a sync costs nothing.
begin() {
  local parent=${TMPDIR:-$target}
  mkdir -p "$parent"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  dir=$(mktemp -d "$parent/raftkv-perf.XXXXXX")
  if [[ $(file_system) == tmpfs ]]; then
    say "$parent is in memory: syncs cost nothing there, so set TMPDIR to a place on a disk"
  fi
  ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
}

file_system() { df --output=fstype "$dir" | tail -n 1; }

# What the figures were measured on, in one line.
machine() {
  local kib
  kib=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
  printf '%s, commit %s; %d cores, %d GiB, %s, %s' "$(date -u +%Y-%m-%d)" "$(commit)" \
    "$(nproc)" $(((kib + 524288) / 1048576)) "$(file_system)" "$(uname -sr)"
}

commit() {
  local short
  short=$(git -C "$root" rev-parse --short HEAD 2>/dev/null) || short=unknown
  git -C "$root" diff --quiet HEAD 2>/dev/null || short="$short with changes"
  printf '%s' "$short"
}

# Builds the programs in release mode, unless --bin has named them.
build() {
  [[ -z $bin ]] || return 0
  say 'building'
  cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml" --bins
  bin=$target/release
}

# Starts a cluster: start_cluster NAME NODES FIRST_PORT [OPTIONS OF raft_example]. Its
# processes are then in cluster_pids[NAME], the options that name its addresses in
# cluster_addrs[NAME]. Returns when it leads.
start_cluster() {
  local name=$1 nodes=$2 first=$3 id pids=() addrs=()
  shift 3
  mkdir -p "$dir/$name"
  for ((id = 0; id < nodes; id++)); do
    printf '[[node]]\nid = %d\npeer = "127.0.0.1:%d"\nclient = "127.0.0.1:%d"\n\n' \
      "$id" $((first + 2 * id)) $((first + 2 * id + 1))
  done >"$dir/$name/cluster.toml"
  for ((id = 0; id < nodes; id++)); do
    "$bin/raft_example" "$id" --cluster "$dir/$name/cluster.toml" --data-dir "$dir/$name" \
      --log-level info "$@" >"$dir/$name/node_$id.log" 2>&1 </dev/null &
    pids+=($!)
    started+=($!)
    addrs+=(--addr "127.0.0.1:$((first + 2 * id + 1))")
  done
  cluster_pids[$name]=${pids[*]}
  cluster_addrs[$name]=${addrs[*]}
  wait_for_leader "$name"
}

stop_cluster() {
  local pids
  read -ra pids <<<"${cluster_pids[$1]}"
  end_processes "${pids[@]}"
  forget "${pids[@]}"
  rm -rf -- "${dir:?}/$1"
}

# Takes processes that have ended out of those to end.
forget() {
  local pid left=()
  for pid in "${started[@]}"; do
    [[ " $* " == *" $pid "* ]] || left+=("$pid")
  done
  started=("${left[@]}")
}

# Prints the number of the node that leads, if there is one.
leader_of() {
  local addrs
  read -ra addrs <<<"${cluster_addrs[$1]}"
  "$bin/raft_client" "${addrs[@]}" --timeout 1 status --json 2>/dev/null |
    awk '/"id":/ { id = $2 + 0 } /"role": "leader"/ { leader = id "" } END { print leader }' || true
}

wait_for_leader() {
  local deadline=$((SECONDS + 30))
  until [[ -n $(leader_of "$1") ]]; do
    if ((SECONDS >= deadline)); then
      tail -n 5 "$dir/$1"/node_*.log >&2
      fail "cluster $1 has no leader"
    fi
    sleep 0.1
  done
}

# Prints the process of the leader; while there is none, that of the node that leads first.
leader_pid() {
  local pids leader
  read -ra pids <<<"${cluster_pids[$1]}"
  leader=$(leader_of "$1")
  printf '%s' "${pids[${leader:-0}]}"
}

# Prints the processes of a cluster, the leader's first, as options of raft_bench.
server_pids() {
  local pid leader
  leader=$(leader_pid "$1")
  printf -- '--server-pid %s' "$leader"
  for pid in ${cluster_pids[$1]}; do
    [[ $pid == "$leader" ]] || printf -- ' --server-pid %s' "$pid"
  done
}

# Loads a cluster: bench NAME SECONDS [OPTIONS OF raft_bench], and prints JSON. A run
# that does not end is ended.
bench() {
  local name=$1 seconds=$2 options
  shift 2
  read -ra options <<<"${cluster_addrs[$name]} $(server_pids "$name")"
  timeout --kill-after=5 $((seconds + 60)) \
    "$bin/raft_bench" "${options[@]}" --seconds "$seconds" --json "$@"
}

# Prints the number under the name $1 in the JSON $2, – if there is none.
field() {
  local number
  number=$(grep -oE "\"$1\":[0-9.]+" <<<"$2" | head -n 1)
  printf '%s' "${number##*:}"
  [[ -n $number ]] || printf '–'
}

# CPU time in microseconds, user and system, of these processes and of their children
# that have ended.
cpu_us() {
  local pid
  for pid in "$@"; do
    sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null || true
  done | awk -v hertz="$(getconf CLK_TCK)" \
    '{ ticks += $12 + $13 + $14 + $15 } END { printf "%.0f", ticks * 1e6 / hertz }'
}

# Anonymous memory of these processes together, in KiB.
anonymous_kib() {
  local pid
  for pid in "$@"; do cat "/proc/$pid/status" 2>/dev/null || true; done |
    awk '/^RssAnon:/ { kib += $2 } END { print kib + 0 }'
}

# Writes updates until each of so many keys has been written with great probability:
# fill NAME KEYS TIMES SECONDS_AT_MOST PIPELINE [OPTIONS OF raft_bench]. With TIMES 3
# one key of twenty is left out.
fill() {
  local name=$1 keys=$2 times=$3 most=$4 pipeline=$5 json count=0 end slice
  shift 5
  end=$((SECONDS + most))
  # Where values are large two seconds may be too short for an answer.
  slice=$((pipeline > 1 ? 2 : 10))
  while ((count < keys * times && SECONDS < end)); do
    if json=$(bench "$name" "$slice" --warm-up 0 --connections 64 --pipeline "$pipeline" --keys "$keys" \
      --seed $((count + 1)) "$@"); then
      count=$((count + $(field operations "$json")))
    fi
  done
}

# The median of the numbers on stdin.
median() {
  sort -g | awk '{ v[NR] = $1 }
    END { if (NR) printf "%.6g", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}
