#!/usr/bin/env bash
# Checks a cluster of three from outside: every node takes writes and reads those of the others, all agree on the
# leader, and when the leader is killed the rest go on and it catches up again.
#
#   scripts/test-cluster.sh                the cluster that runs; if none does, one is started and stopped again
#   PORT_BASE=18000 CLUSTER_DIR=/tmp/c FAILOVER_SECS=10 CATCH_UP_SECS=20 scripts/test-cluster.sh
#
# Writes a dozen keys under test-cluster/. Prints a line for every check, OK or FAIL, and exits 1 if any failed.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
# shellcheck source=scripts/cluster-common.sh
source scripts/cluster-common.sh
FAILOVER_SECS=${FAILOVER_SECS:-10} CATCH_UP_SECS=${CATCH_UP_SECS:-20}
find_binaries
export BIN PORT_BASE CLUSTER_DIR

failures=0
ok() { echo "OK    $*"; }
fail() { echo "FAIL  $*"; failures=$((failures + 1)); }
# check NAME COMMAND...: one line, by whether the command succeeds.
check() {
  local name=$1
  shift
  if "$@"; then ok "$name"; else fail "$name"; fi
}

running=()
for node in "${NODES[@]}"; do
  if pid_of "$node" >/dev/null; then running+=("$node"); fi
done
if ((${#running[@]} == 0)); then
  trap 'scripts/stop-cluster.sh' EXIT
  scripts/start-cluster.sh
elif ((${#running[@]} < ${#NODES[@]})); then
  die "only node ${running[*]} of ${NODES[*]} runs: scripts/start-cluster.sh starts the others"
fi

scribe() { "$BIN/scribe" --server "$(url "$1")" --timeout 15 "${@:2}"; }

# Keys of this run, so that an earlier one's values are no success.
prefix=test-cluster/$(now_ms)
written=()

# write NODE NAME: puts a value of its own under a key of this name.
write() {
  if scribe "$1" put "$prefix/$2" "value of $2" >/dev/null; then
    written+=("$2")
    ok "node $1 takes $2"
  else
    fail "node $1 takes $2"
  fi
}

# Whether node $1 gives everything that was written.
reads_all() {
  local name value
  for name in "${written[@]}"; do
    value=$(scribe "$1" get "$prefix/$name") && [[ $value == "value of $name" ]] || {
      echo "      node $1 gives ${value:-nothing} for $name" >&2
      return 1
    }
  done
}

# Whether these nodes say the same of who leads, and one of them says it of itself.
agree() {
  local leader node status term='' leaders=0
  leader=$(wait_for 5000 common_leader "$@") || return 1
  for node in "$@"; do
    status=$(get "$node" /api/v1/status)
    [[ $(field "$status" leader_id) == "$leader" ]] || return 1
    [[ $(field "$status" term) == "${term:=$(field "$status" term)}" ]] || return 1
    if [[ $(field "$status" role) == leader ]]; then leaders=$((leaders + 1)); fi
    [[ $(field "$(get "$node" /is-leader)" is_leader) == "$([[ $node == "$leader" ]] && echo true || echo false)" ]] || return 1
  done
  ((leaders == 1))
}

# Whether node $1 counts $2 members.
counts_members() {
  local rest count=0
  rest=$(get "$1" /cluster/members)
  while [[ $rest == *'"node_id"'* ]]; do
    rest=${rest#*'"node_id"'}
    count=$((count + 1))
  done
  ((count == $2))
}

new_leader() {
  local leader
  leader=$(common_leader "${rest[@]}") && [[ $leader != "$old" ]] && echo "$leader"
}

# Size and root of the tree at node $1, once everything applied is proven.
tree_of() {
  local status applied size
  status=$(get "$1" /api/v1/status)
  applied=$(field "${status#*\"records\"}" applied)
  size=$(field "${status#*\"tree\"}" size)
  [[ -n $size && $size == "$applied" ]] && echo "$size $(field "${status#*\"tree\"}" root)"
}

same_trees() {
  local node first='' tree
  for node in "${NODES[@]}"; do
    tree=$(tree_of "$node") || return 1
    [[ $tree == "${first:=$tree}" ]] || return 1
  done
}

old=$(wait_for 5000 common_leader "${NODES[@]}") || die "the nodes do not agree on a leader: see $CLUSTER_DIR/logs"
echo "leader: node $old"
for node in "${NODES[@]}"; do check "node $node counts three members" counts_members "$node" 3; done
check "all three agree on the leader and the term" agree "${NODES[@]}"
for node in "${NODES[@]}"; do write "$node" "first-$node"; done
for node in "${NODES[@]}"; do check "node $node reads what all have taken" reads_all "$node"; done

rest=()
for node in "${NODES[@]}"; do
  if [[ $node != "$old" ]]; then rest+=("$node"); fi
done
killed_ms=$(now_ms)
kill -KILL "$(pid_of "$old")"
echo "killed node $old"
if leader=$(wait_for $((FAILOVER_SECS * 1000)) new_leader); then
  ok "node $leader leads after $(($(now_ms) - killed_ms)) ms"
else
  fail "the others find a new leader within $FAILOVER_SECS s"
fi
for node in "${rest[@]}"; do write "$node" "second-$node"; done
for node in "${rest[@]}"; do check "node $node reads all, and what was written before" reads_all "$node"; done
check "the two that are left agree" agree "${rest[@]}"

check "node $old starts again" env WAIT_SECS="$CATCH_UP_SECS" scripts/start-cluster.sh "$old"
if wait_for $((CATCH_UP_SECS * 1000)) same_trees >/dev/null; then
  ok "node $old has caught up: all have the same tree, $(tree_of "$old" || true)"
else
  fail "node $old catches up within $CATCH_UP_SECS s"
fi
check "node $old reads all, and what was written without it" reads_all "$old"
for node in "${NODES[@]}"; do write "$node" "third-$node"; done
for node in "${NODES[@]}"; do check "node $node reads everything" reads_all "$node"; done
check "all three agree again" agree "${NODES[@]}"

((failures == 0)) || { echo "$failures checks failed"; exit 1; }
echo "all checks passed"
