#!/usr/bin/env bash
# Where the leader's time goes: a flame graph of it under load, and what costs most.
#
#   perf/flamegraph.sh [OPTIONS] [-- OPTIONS OF raft_bench]
#
#   --nodes N       nodes on this machine (3)
#   --seconds S     how long is recorded (10)
#   --frequency HZ  samples a second of a running thread (997)
#   --top N         rows of the tables (15)
#   --out FILE      the picture (perf/flamegraph-leader.svg)
#   --port P        the first of the ports that are used (18400)
#   --bin DIR       programs that are there, with frame pointers, instead of a build
#
# The load is raft_bench's, with --op update --connections 64 unless told otherwise.
# Needs Linux's perf and, for the picture, inferno, which `cargo install` puts into
# target/tools if it is not there. Prints Markdown.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

nodes=3 seconds=10 frequency=997 top=15
out=$root/perf/flamegraph-leader.svg
load=(--op update --connections 64)
while (($#)); do
  case $1 in
  --help | -h)
    show_help
    exit
    ;;
  --)
    shift
    if (($#)); then load=("$@"); fi
    break
    ;;
  --nodes | --seconds | --frequency | --top | --out | --port | --bin)
    (($# > 1)) || wrong_usage "$1 needs a value"
    declare "${1#--}=$2"
    shift 2
    ;;
  *) wrong_usage "what is $1?" ;;
  esac
done

whole nodes seconds frequency top port

# Frame pointers make stacks cheap to walk and whole; code with them has a directory of
# its own, so that the ordinary build stays as it is.
build_with_frame_pointers() {
  [[ -z $bin ]] || return 0
  say 'building with frame pointers'
  RUSTFLAGS="-C force-frame-pointers=yes" cargo build --release --locked --quiet \
    --manifest-path "$root/Cargo.toml" --bins --target-dir "$target/flamegraph"
  bin=$target/flamegraph/release
}

# inferno is under the CDDL: a tool beside the project, never linked to it.
find_inferno() {
  PATH=$target/tools/bin:$PATH
  if ! command -v inferno-flamegraph >/dev/null; then
    say 'installing inferno with cargo into target/tools'
    cargo install inferno --locked --quiet --root "$target/tools" \
      --target-dir "$target/tools/build" >&2 || fail 'inferno could not be installed'
  fi
}

# Prints the first event that can be counted here. A virtual machine often has no
# cycles; an unprivileged user often may not look into the kernel.
usable_event() {
  local event
  for event in cycles cpu-clock cycles:u cpu-clock:u; do
    if perf record -q -o "$dir/try.data" -F "$frequency" -e "$event" --call-graph fp -p "$1" \
      -- sleep 0.3 >/dev/null 2>&1 &&
      perf script -i "$dir/try.data" -F ip 2>/dev/null | grep '[0-9a-f]' >/dev/null; then
      printf '%s' "$event"
      return
    fi
  done
  fail "perf can record nothing here; see /proc/sys/kernel/perf_event_paranoid ($(cat /proc/sys/kernel/perf_event_paranoid))"
}

# Tables from the stacks: `thread;outer;…;inner count`, kernel frames marked with _[k].
tables() {
  awk -v top="$top" -v samples="$samples" '
    # Without the hash of the compiler, and safe in a table.
    function shown(name) {
      sub(/_\[k\]$/, "", name)
      sub(/::h[0-9a-f]+$/, "", name)
      gsub(/\|/, "\\|", name)
      return name
    }
    function percent(count) { return sprintf("%.1f %%", 100 * count / total) }
    # The largest first; prints at most so many rows.
    function rows(values, kinds, most,    n, name, best) {
      for (n = 0; n < most; n++) {
        best = ""
        for (name in values)
          if (!(name in done) && (best == "" || values[name] > values[best])) best = name
        if (best == "") break
        done[best] = 1
        printf "| `%s` | %s | %s |\n", shown(best), percent(values[best]), kinds[best]
      }
      split("", done)
    }
    {
      count = $NF
      stack = substr($0, 1, length($0) - length($NF) - 1)
      depth = split(stack, frames, ";")
      total += count
      is_kernel = frames[depth] ~ /_\[k\]$/
      threads[frames[1]] += count
      if (is_kernel) { kernel += count; in_kernel[frames[1]] += count }
      self[frames[depth]] += count
      where[frames[depth]] = is_kernel ? "kernel" : "user"
      split("", seen)
      for (n = 2; n <= depth; n++) {
        # Also `<raftkv::… as Trait>::f` and `<T as raftkv::…>::f`.
        if (frames[n] ~ /raftkv::/ && !(frames[n] in seen)) {
          seen[frames[n]] = 1
          inclusive[frames[n]] += count
          if (is_kernel) below[frames[n]] += count
        }
      }
    }
    END {
      if (!total) { print "nothing was recorded"; exit 1 }
      for (name in threads) kinds[name] = percent(in_kernel[name])
      printf "%d samples: %s user, %s kernel.\n\n", samples, percent(total - kernel), percent(kernel)
      print "| thread | of the time | of which in the kernel, of the time |\n|---|---|---|"
      rows(threads, kinds, 20)
      print "\nBy the time in the function itself:\n\n| function | of the time | |\n|---|---|---|"
      rows(self, where, top)
      for (name in inclusive) kinds[name] = percent(below[name])
      print "\nBy the time in the function and what it calls, our own functions (without `send` and"
      print "`recv`, whose callers cannot be seen):\n"
      print "| function | of the time | of which in the kernel, of the time |\n|---|---|---|"
      rows(inclusive, kinds, top)
    }' "$1"
}

has perf 'the package linux-perf or linux-tools' || exit 1
begin
find_inferno
build_with_frame_pointers
say "starting $nodes nodes"
start_cluster profiled "$nodes" "$port"
pid=$(leader_pid profiled)

# Under load from before the recording until after it.
bench profiled $((seconds + 8)) "${load[@]}" >"$dir/bench.json" &
generator=$!
started+=("$generator")
sleep 2
event=$(usable_event "$pid")
say "recording $event of the leader for $seconds s"
perf record -q -o "$dir/perf.data" -F "$frequency" -e "$event" --call-graph fp -p "$pid" \
  -- sleep "$seconds" >/dev/null 2>"$dir/perf.log" || fail "perf record: $(tail -n 3 "$dir/perf.log")"
wait "$generator" || fail 'raft_bench has failed'
forget "$generator"
[[ $(leader_pid profiled) == "$pid" ]] || say 'the leader has changed meanwhile: the picture shows more than one role'

say 'putting the stacks together'
# Inlined functions are looked up with addr2line, one process an address: too slow.
perf script -i "$dir/perf.data" --no-inline >"$dir/stacks" 2>/dev/null
samples=$(grep -c '^[^[:space:]]' "$dir/stacks") || fail 'nothing was recorded'
# Where the C library makes a system call that can be cancelled it uses the register of
# the frame pointer otherwise, and who called it is lost: said in the picture.
inferno-collapse-perf --kernel "$dir/stacks" 2>/dev/null |
  sed -E 's/^([^;]+);(__[a-z_]*(send|recv|poll|read|write)[a-z_]*;)/\1;[caller not known];\2/' >"$dir/folded"
# perf may have counted something else than it was told to.
event=$(perf evlist -i "$dir/perf.data" | head -n 1)
per_second=$(field per_second "$(cat "$dir/bench.json")")
what="$nodes nodes, raft_bench ${load[*]}: ${per_second%.*}/s"
inferno-flamegraph --deterministic --colors rust --minwidth 0.3 --width 1400 \
  --title "The leader under load, $(date -u +%Y-%m-%d), commit $(commit)" \
  --subtitle "$what; $event" "$dir/folded" >"$dir/flamegraph.svg"
mv -- "$dir/flamegraph.svg" "$out"
say "wrote $out, $(($(stat -c %s "$out") / 1024)) KiB"

echo "$what. $event at $frequency Hz for $seconds s."
echo "$(machine)."
echo
tables "$dir/folded"
