#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows what commits of an open partition do not wait for. Coordinators and their metastore are not on the way of data: with
# all of them killed, reads and commits go on, for longer than any of their times, and also when a memory node is killed
# meanwhile; when they are back nothing has changed hands, and the memory node is replaced. A storage node that is away
# for longer than rings have room for its log is left behind, and has it all again when it is back.
# test-timeout: 240
set -euo pipefail
build=${FARPOOL_BUILD:-$PWD/build}
export FARPOOL_BUILD=$build
dir=$(mktemp -d)
cluster=(scripts/cluster --dir "$dir/cluster")
trap '"${cluster[@]}" down >/dev/null 2>&1; rm -rf "$dir"' EXIT

fail() {
    echo "commits_go_on: $*"
    "$build/farpoolctl" status || true
    tail -n 5 "$dir"/cluster/c*/log
    exit 1
}

lines() { wc -l <"$dir/cluster/$owner/log"; }

# Until the owner has said that so often, behind that line; from now on.
await() { # PATTERN COUNT [LINE]
    local from i
    from=${3:-$(lines)}
    for ((i = 0; i < 1200; i++)); do
        [ "$(tail -n "+$((from + 1))" "$dir/cluster/$owner/log" | grep -c -- "$1")" -ge "$2" ] && return
        sleep 0.05
    done
    fail "$owner did not say $2 times: $1"
}

acknowledged() { grep '"load"' "$dir/cluster/$owner/log" | tail -n 1 | sed 's/.*"acknowledged":\([0-9]*\).*/\1/'; }

# Lines of load come, one a second, and tell of more commits.
goes_on() {
    local before i
    await '"load"' 1
    before=$(acknowledged)
    for ((i = 0; i < 60; i++)); do
        await '"load"' 1
        [ "$(acknowledged)" -le "$before" ] || return 0
    done
    fail "no commits while $1"
}

etcd=()
members=()
if command -v etcd >/dev/null; then
    etcd=(--etcd)
    members=(etcd1 etcd2 etcd3)
else
    echo "etcd is not installed: an SQLite file takes its place"
fi
# Times for a machine that is slow: nobody is to be taken for lost when the coordinators are back.
"${cluster[@]}" up "${etcd[@]}" --memnodes 4 --memory 96m --coordinator-option 'lost-ms 6000' --coordinator-option \
    'grace-ms 6000' --coordinator-option 'replace-ms 100' --compute "$build/farpool serve -o json --load 2 --keys 300 --notes $dir/cluster/notes" >/dev/null
FARPOOL_COORDINATORS=$(cat "$dir/cluster/coordinators")
export FARPOOL_COORDINATORS
"$build/farpoolctl" partition create p --slab 24m --log-ring 2m --wait >/dev/null 2>&1 || fail "no partition"
route=$("$build/farpoolctl" route p -o json)
owner=$(sed -n 's/.*"owner": *"\([^"]*\)".*/\1/p' <<<"$route")
await '"load"' 1

"${cluster[@]}" kill coord1 coord2 coord3 "${members[@]}"
for _ in 1 2 3; do goes_on "all coordinators are away"; done
before=$(lines)
kill -USR1 "$(cut -d' ' -f1 "$dir/cluster/$owner/pid")"
await '"compared"' 1 "$before"
"${cluster[@]}" kill mem1
goes_on "all coordinators and a memory node are away"

"${cluster[@]}" start "${members[@]}" coord1 coord2 coord3
for ((i = 0; i < 600; i++)); do
    "$build/farpoolctl" --timeout 1000 events 2>/dev/null | grep -q 'takes the place of mem1' && break
    sleep 0.1
done
[ "$i" -lt 600 ] || fail "mem1 was not replaced"
goes_on "all but mem1 are back"
"$build/farpoolctl" events | grep -q failover && fail "the partition has changed hands"

# Bytes of log that a storage node has.
log_of() { # NODE
    "$build/farpoolctl" node list -o json | python3 -c '
import json, sys
print(next(n["actual"].get("log", 0) for n in json.load(sys.stdin)["nodes"] if n["name"] == sys.argv[1]))' "$1"
}

"${cluster[@]}" start mem1
"${cluster[@]}" kill store1
had=$(log_of store2)
while [ "$(log_of store2)" -lt $((had + 6291456)) ]; do goes_on "a storage node is away"; done
"${cluster[@]}" start store1
has=$(log_of store2)
for ((i = 0; i < 600; i++)); do
    [ "$(log_of store1)" -ge "$has" ] && "$build/farpoolctl" status | grep -q 'Nothing is stalled' && break
    sleep 0.1
done
[ "$i" -lt 600 ] || fail "store1 did not get the log that it lacks: it has $(log_of store1) bytes of $has"
echo "reads and commits went on without coordinators and metastore, a memory node, a storage node"
