#!/usr/bin/env bash
# Stops the nodes that scripts/start-cluster.sh started, by their pid files, and waits until they have finished
# what was under way.
#
#   scripts/stop-cluster.sh [N ...]        all nodes, or these
#   CLUSTER_DIR=/tmp/c STOP_SECS=20 scripts/stop-cluster.sh …
#
# Exits 1 if one is still there after STOP_SECS; its pid file stays then.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
# shellcheck source=scripts/cluster-common.sh
source scripts/cluster-common.sh
# Longer than limits.shutdown_timeout is by default.
STOP_SECS=${STOP_SECS:-20}

nodes=("$@")
((${#nodes[@]})) || nodes=("${NODES[@]}")
check_nodes "${nodes[@]}"

declare -A ran
for node in "${nodes[@]}"; do
  if pid=$(pid_of "$node"); then
    ran[$node]=$pid
    kill -TERM "$pid" 2>/dev/null || true
  fi
done

has_ended() { ! pid_of "$1" >/dev/null; }

status=0
until_ms=$(($(now_ms) + STOP_SECS * 1000))
for node in "${nodes[@]}"; do
  left_ms=$((until_ms - $(now_ms)))
  if ! wait_for "$left_ms" has_ended "$node" >/dev/null; then
    echo "node $node: still runs after $STOP_SECS s, pid ${ran[$node]:-}; see $(log_file "$node")" >&2
    status=1
    continue
  fi
  rm -f "$(pid_file "$node")"
  if [[ -n ${ran[$node]:-} ]]; then echo "node $node: stopped"; else echo "node $node: was not running"; fi
done
exit "$status"
