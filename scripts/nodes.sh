# Sourced by run.sh, stop.sh, clean.sh and quickstart.sh: which nodes run in a folder.
# shellcheck shell=bash

# Whether process $2 is a raft_example of the folder $1, an absolute path without
# symbolic links. The file that it runs counts, so that nodes of other folders are
# left alone, and nodes whose binary was replaced by a rebuild are found.
is_node_of() {
  local exe
  exe=$(readlink "/proc/$2/exe" 2>/dev/null) || return 1
  [[ $exe == "$1/raft_example" || $exe == "$1/raft_example (deleted)" ]]
}

# Prints `PID N` for every node that runs in the folder $1.
nodes_of() {
  local process pid argv
  for process in /proc/[0-9]*; do
    pid=${process#/proc/}
    is_node_of "$1" "$pid" || continue
    # It may end while we look.
    mapfile -d '' -t argv 2>/dev/null <"$process/cmdline" || continue
    printf '%s %s\n' "$pid" "${argv[1]:-?}"
  done
}
