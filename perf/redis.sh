# Sourced by compare.sh and steady.sh after common.sh: a redis that syncs its log before
# it answers, and loads on it.
# shellcheck shell=bash
# shellcheck disable=SC2154 # `dir` is of common.sh

redis_pid=

has_redis() {
  has redis-server 'the package redis-server; redis is left out' &&
    has redis-benchmark 'the package redis-tools; redis is left out' &&
    has redis-cli 'the package redis-tools; redis is left out'
}

# start_redis PORT KEYS VALUE_BYTES [LINES OF THE CONFIGURATION]: with all keys in it.
# Its process is then redis_pid.
start_redis() {
  local port=$1 keys=$2 value_bytes=$3 deadline=$((SECONDS + 20))
  shift 3
  mkdir -p "$dir/redis"
  {
    printf 'bind 127.0.0.1\nport %d\ndir %s\ndaemonize no\n' "$port" "$dir/redis"
    printf 'save ""\nappendonly yes\nappendfsync always\n'
    printf '%s\n' "$@"
  } >"$dir/redis/redis.conf"
  redis-server "$dir/redis/redis.conf" >"$dir/redis/log" 2>&1 </dev/null &
  redis_pid=$!
  started+=("$redis_pid")
  until [[ $(redis-cli -p "$port" ping 2>/dev/null) == PONG ]]; do
    ((SECONDS < deadline)) || fail "redis does not answer: $(tail -n 3 "$dir/redis/log")"
    sleep 0.1
  done
  # All keys in one command: the generator knows only random ones.
  redis-cli -p "$port" eval 'for i = 0, ARGV[1] - 1 do
      redis.call("set", string.format("key:%012d", i), string.rep("v", ARGV[2]))
    end' 0 "$keys" "$value_bytes" >/dev/null
}

# redis_run PORT set|get CLIENTS PIPELINE RATE SECONDS KEYS VALUE_BYTES prints
# `OPERATIONS OPS/S P50 P99 P99.9`, in µs. redis-benchmark is told how many, not how
# long: RATE, what it did last time, says how many fill the time.
redis_run() {
  local port=$1 op=$2 clients=$3 pipeline=$4 rate=$5 seconds=$6 keys=$7 value_bytes=$8 count
  count=$(awk -v r="$rate" -v s="$seconds" -v least=$((clients * pipeline)) \
    'BEGIN { n = int(r * s); print (n > least ? n : least) }')
  timeout --kill-after=5 $((seconds * 4 + 60)) redis-benchmark -p "$port" -t "$op" -c "$clients" \
    -P "$pipeline" -n "$count" -r "$keys" -d "$value_bytes" --precision 3 2>/dev/null | tr '\r' '\n' |
    awk -v n="$count" '
      # The first table alone goes by percentiles; the second by latencies.
      /percentile distribution/ { is_first = 1 }
      /Cumulative distribution/ { is_first = 0 }
      is_first && p999 == "" && $1 + 0 >= 99.9 { p999 = $3 }
      /throughput summary/ { rate = $3 }
      is_values { p50 = $3; p99 = $5; is_values = 0 }
      $1 == "avg" && $2 == "min" { is_values = 1 }
      END { if (rate) printf "%d %s %.0f %.0f %.0f\n", n, rate, p50 * 1000, p99 * 1000, p999 * 1000 }'
}

# Puts the log of redis in its shortest form, and waits for it.
shorten_redis_log() {
  local port=$1 deadline=$((SECONDS + 60))
  redis-cli -p "$port" bgrewriteaof >/dev/null
  sleep 0.2
  while redis-cli -p "$port" info persistence | grep -qE '^aof_rewrite_(in_progress|scheduled):1'; do
    ((SECONDS < deadline)) || return 0
    sleep 0.2
  done
}
