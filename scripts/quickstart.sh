#!/usr/bin/env bash
# From a fresh checkout to a running cluster: builds, starts seven nodes on this
# machine, shows put, get, update and remove, and leaves the cluster running.
#   scripts/quickstart.sh          … and leaves it running
#   scripts/quickstart.sh --stop   … and stops it in the end
# It works in build/quickstart/ alone and uses keys of its own; run it as often as
# you like.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
root=${here%/*}
dir=$root/build/quickstart
# How long the cluster may take to elect its first leader.
patience_s=30

stop_in_the_end=0
case "$#:${1:-}" in
  0:) ;;
  1:--stop) stop_in_the_end=1 ;;
  1:--help | 1:-h)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *)
    echo "usage: quickstart.sh [--stop]" >&2
    exit 2
    ;;
esac

step() { printf '\n== %s\n' "$*"; }
fail() {
  printf 'quickstart.sh: %s\n' "$*" >&2
  exit 1
}

[[ $(uname -s) == Linux ]] || fail "Linux is needed, this is $(uname -s)"

step "Building (the first time takes a few minutes)"
"$here/build.sh" "$dir"
dir=$(cd -- "$dir" && pwd -P)
cd -- "$dir"
# shellcheck source=scripts/nodes.sh
source "$here/nodes.sh"

# Whether something listens on this port of this machine.
in_use() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

if [[ -n $(nodes_of "$dir") ]]; then
  step "Stopping the cluster of the last time (its data stays)"
  ./stop.sh
fi
for port in {4396..4409}; do
  if in_use "$port"; then
    fail "port $port of 127.0.0.1 is in use by another program (build/example? then build/example/stop.sh)"
  fi
done

# Nothing is left behind half started.
started=0
clean_up() {
  local code=$?
  if ((code != 0 && started)); then
    echo "quickstart.sh: failed, stopping what was started; the logs are in $dir/logs" >&2
    ./stop.sh >&2 || true
  fi
}
trap clean_up EXIT

step "Starting the cluster: node 0, node 1, then nodes 2 to 6"
started=1
./run.sh 0
./run.sh 1
./run.sh

step "Waiting for a leader"
deadline=$((SECONDS + patience_s))
until ./raft_client --timeout 1 status --json 2>/dev/null | grep -q '"role": "leader"'; do
  ((SECONDS < deadline)) || fail "no leader after $patience_s s"
  printf '.'
  sleep 0.2
done
echo "The cluster has a leader."

# Shows a command and its answer, and holds the answer's last line against $1.
try() {
  local expected=$1 answer
  shift
  printf '$ ./raft_client %s\n' "$*"
  answer=$(./raft_client "$@") || true
  printf '%s\n' "$answer"
  [[ ${answer##*$'\n'} == "$expected" ]] || fail "expected '$expected'"
}

key=quickstart-$(date +%s)-$$
step "Writing and reading"
try "success" put "$key" hello
try "success: hello" get "$key"
try "success" update "$key" "hello again"
try "success: hello again" get "$key"
try "success" remove "$key"
try "key not found" get "$key"

step "The nodes"
./raft_client status

if ((stop_in_the_end)); then
  step "Stopping the cluster"
  ./stop.sh
else
  step "The cluster is running"
  echo "Try:      cd $dir && ./raft_client put name value"
  echo "Stop it:  $dir/stop.sh"
fi
