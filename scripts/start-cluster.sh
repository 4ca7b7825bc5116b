#!/usr/bin/env bash
# Starts the three nodes of configs/config-node1.toml to config-node3.toml on this machine, waits for a leader and
# names it. Nodes that run already are left alone, so that it also brings back a node that died.
#
#   scripts/start-cluster.sh [N ...]       all nodes, or these
#   PORT_BASE=18000 CLUSTER_DIR=/tmp/c BIN=target/release WAIT_SECS=5 scripts/start-cluster.sh …
#
# Leaves pids/nodeN.pid and logs/nodeN.log; scripts/stop-cluster.sh stops them. Builds release binaries unless BIN
# names a directory that has them; scripts/cluster-common.sh explains the other variables. Exits 1 if there is no
# leader in time, with the ends of the logs; the nodes keep trying meanwhile.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
# shellcheck source=scripts/cluster-common.sh
source scripts/cluster-common.sh
WAIT_SECS=${WAIT_SECS:-5}

nodes=("$@")
((${#nodes[@]})) || nodes=("${NODES[@]}")
check_nodes "${nodes[@]}"
find_binaries
mkdir -p "$CLUSTER_DIR/pids" "$CLUSTER_DIR/logs"

# What differs from the files; flags lie over them.
flags_of() {
  if [[ $PORT_BASE != 8000 ]]; then
    local node peers=()
    for node in "${NODES[@]}"; do peers+=("127.0.0.1:$(raft_port "$node")"); done
    printf '%s\n' --http-port "$(http_port "$1")" --raft-addr "127.0.0.1:$(raft_port "$1")" \
      --peers "$(IFS=,; echo "${peers[*]}")"
  fi
  if [[ $CLUSTER_DIR != . ]]; then printf '%s\n' --data-dir "$CLUSTER_DIR/data/node$1"; fi
}

start_node() {
  local flags
  mapfile -t flags < <(flags_of "$1")
  # In a process group of its own, so that Ctrl-C here does not reach it.
  set -m
  nohup "$BIN/scribe-node" --config "configs/config-node$1.toml" "${flags[@]}" \
    >>"$(log_file "$1")" 2>&1 </dev/null &
  set +m
  pids[$1]=$!
  echo $! >"$(pid_file "$1")"
  echo "node $1: pid $!, $(url "$1"), log $(log_file "$1")"
}

# Of the nodes that this start begins: the pid, and where in the log it begins.
declare -A pids log_begin
show_logs() {
  local node
  for node in "${!log_begin[@]}"; do
    echo "--- end of $(log_file "$node")" >&2
    tail -c "+${log_begin[$node]}" "$(log_file "$node")" | tail -n 20 >&2
  done
}

begun=$(now_ms)
for node in "${nodes[@]}"; do
  if pid=$(pid_of "$node"); then
    echo "node $node: runs already, pid $pid"
    continue
  fi
  touch "$(log_file "$node")"
  log_begin[$node]=$(($(wc -c <"$(log_file "$node")") + 1))
  start_node "$node"
done

# Those that have to agree: the ones of this start, and the others that run.
voices=()
for node in "${NODES[@]}"; do
  if [[ -n ${pids[$node]:-} ]] || pid_of "$node" >/dev/null; then voices+=("$node"); fi
done

# The leader that they see, or 0 when a node of this start has ended.
leader_or_end() {
  local pid
  for pid in "${pids[@]}"; do
    kill -0 "$pid" 2>/dev/null || { echo 0; return; }
  done
  common_leader "${voices[@]}"
}

leader=$(wait_for $((WAIT_SECS * 1000)) leader_or_end) || {
  show_logs
  die "there is no leader that all nodes see after $WAIT_SECS s"
}
if [[ $leader == 0 ]]; then
  show_logs
  die "a node ended instead of becoming ready"
fi
echo "leader: node $leader at $(url "$leader"), after $(($(now_ms) - begun)) ms"
