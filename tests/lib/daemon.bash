# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# For tests of a daemon as a process, who set $daemon, its program, and $dir, a directory for them alone.
node=
cleanup() {
    [ -z "$node" ] || kill -KILL "$node" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT

fail() {
    echo "FAILED: $*"
    [ ! -s "$dir/err" ] || cat "$dir/err"
    exit 1
}

# refused STATUS TEXT ARGUMENT...: the node ends with that status and says that.
refused() {
    local status=$1 text=$2 got=0
    shift 2
    timeout 60 "$daemon" "$@" >"$dir/out" 2>"$dir/err" || got=$?
    [ "$got" = "$status" ] || fail "status $got, not $status: $*"
    grep -qF -- "$text" "$dir/err" || fail "no '$text': $*"
}

# start ARGUMENT...: $node, and its line of JSON in $ready.
start() {
    rm -f "$dir/fifo"
    mkfifo "$dir/fifo"
    "$daemon" "$@" --ready-fd 9 9>"$dir/fifo" 2>"$dir/node.err" &
    node=$!
    read -r -t 60 ready <"$dir/fifo" || {
        if grep -q 'E_UNSUPPORTED' "$dir/node.err"; then
            cat "$dir/node.err"
            exit 77
        fi
        cat "$dir/node.err"
        fail "not ready: $*"
    }
}

# stop SIGNAL: ends with status 0.
stop() {
    local got=0
    kill "-$1" "$node"
    wait "$node" || got=$?
    node=
    [ "$got" = 0 ] || fail "status $got after SIG$1: $(cat "$dir/node.err")"
}

cpu_ticks() { # user and system time of $node, all threads
    sed 's/.*) //' "/proc/$node/stat" | awk '{print $12 + $13}'
}

# $node uses a fortieth of a processor at most.
idles() {
    local before used
    sleep 1 # it may have just begun
    before=$(cpu_ticks)
    sleep 2
    used=$(($(cpu_ticks) - before))
    [ "$used" -le 5 ] || fail "$used ticks of CPU in 2 s of idling"
}
