# shellcheck shell=bash
# What start-cluster.sh, stop-cluster.sh and test-cluster.sh share; they source it from the root of the checkout.
#
#   PORT_BASE    HTTP is on PORT_BASE+N, node traffic on PORT_BASE+1000+N (default 8000, as in configs/)
#   CLUSTER_DIR  where data/, pids/ and logs/ are (default: the checkout)
#   BIN          directory of the binaries; without it they are built here
#   PROFILE      cargo profile to build with (default release)

PORT_BASE=${PORT_BASE:-8000} CLUSTER_DIR=${CLUSTER_DIR:-.} PROFILE=${PROFILE:-release} BIN=${BIN:-}
NODES=(1 2 3)

die() { echo "${0##*/}: $*" >&2; exit 1; }

[[ $PORT_BASE =~ ^[0-9]+$ ]] && ((PORT_BASE >= 1 && PORT_BASE <= 60000)) || die "PORT_BASE=$PORT_BASE is no number from 1 to 60000"

http_port() { echo $((PORT_BASE + $1)); }
raft_port() { echo $((PORT_BASE + 1000 + $1)); }
url() { echo "http://127.0.0.1:$(http_port "$1")"; }
pid_file() { echo "$CLUSTER_DIR/pids/node$1.pid"; }
log_file() { echo "$CLUSTER_DIR/logs/node$1.log"; }
now_ms() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# Fails unless every argument is a node of the cluster.
check_nodes() {
  local node
  for node in "$@"; do
    [[ " ${NODES[*]} " == *" $node "* ]] || die "there is no node $node; accepted are ${NODES[*]}"
  done
}

# Sets BIN to where the binaries are, and builds them unless BIN was given.
find_binaries() {
  if [[ -z $BIN ]]; then
    cargo build --locked --profile "$PROFILE" --bin scribe-node --bin scribe
    BIN=${CARGO_TARGET_DIR:-target}/$([[ $PROFILE == dev ]] && echo debug || echo "$PROFILE")
  fi
  [[ -x $BIN/scribe-node && -x $BIN/scribe ]] || die "$BIN has no scribe-node and scribe"
}

# Prints the pid of node $1 if it runs. A pid file may be older than the machine's last start, and its number
# another program's by now, so the command line has to be that of this node.
pid_of() {
  local pid='' command
  [[ -r $(pid_file "$1") ]] || return 1
  read -r pid <"$(pid_file "$1")" || true
  [[ $pid =~ ^[0-9]+$ ]] && kill -0 "$pid" 2>/dev/null || return 1
  if [[ -d /proc/self ]]; then
    command=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || return 1
  else
    command=$(ps -o args= -p "$pid") || return 1
  fi
  [[ $command == *scribe-node*config-node$1.toml* ]] && echo "$pid"
}

# The status line and the body of GET $2 at node $1, or nothing when nobody answers.
get() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$(http_port "$1")" || exit 1
    printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\nConnection: close\r\n\r\n' "$2" >&3
    timeout 5 cat <&3
  ) 2>/dev/null | tr -d '\0' || true
}

# The first value of field $2 in the JSON $1, without quotes; nothing when there is none.
field() {
  [[ $1 =~ \"$2\":[[:space:]]*\"?([^,\"}]*) ]] && echo "${BASH_REMATCH[1]}" || true
}

is_ready() { [[ $(get "$1" /readyz) == "HTTP/1.1 200"* ]]; }

# The id of the leader as node $1 sees it; nothing while it sees none.
leader_seen_by() {
  local answer
  answer=$(get "$1" /cluster/leader)
  [[ $answer == "HTTP/1.1 200"* ]] || return 0
  field "$answer" leader_id
}

# The id of the leader if all the given nodes are ready and see the same one.
common_leader() {
  local node leader='' seen
  for node in "$@"; do
    is_ready "$node" || return 1
    seen=$(leader_seen_by "$node")
    [[ $seen =~ ^[0-9]+$ && $seen == "${leader:-$seen}" ]] || return 1
    leader=$seen
  done
  echo "$leader"
}

# wait_for MS COMMAND...: until the command succeeds, and prints what it printed then; fails after MS.
wait_for() {
  local until_ms=$(($(now_ms) + $1)) answer
  shift
  until answer=$("$@"); do
    (($(now_ms) < until_ms)) || return 1
    sleep 0.05
  done
  printf '%s\n' "$answer"
}
