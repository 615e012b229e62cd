#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that farpool serve follows a real coordinator: a partition that is created gets an owner, which writes; when that is
# killed the other one has it, and finds every acknowledged write; when that one is only stopped, the first one, which
# has been started again, has it, and the stopped one is told when it goes on, and closes it. A partition that is made
# read-only is written no more; SIGUSR1 compares, SIGTERM hands over.
set -euo pipefail
build=${FARPOOL_BUILD:?}
dir=$(mktemp -d)
declare -A pids=()

clean_up() {
    local name
    for name in "${!pids[@]}"; do
        kill -CONT "${pids[$name]}" 2>/dev/null || true
        kill -KILL "${pids[$name]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap clean_up EXIT

fail() {
    echo "serve: $*"
    tail -n 5 "$dir"/*.log
    exit 1
}

start() { # NAME COMMAND...
    local name=$1
    shift
    "$@" >>"$dir/$name.log" 2>&1 &
    pids[$name]=$!
}

start_compute() {
    start "$1" "$build/farpool" serve --coordinators "$FARPOOL_COORDINATORS" --name "$1" --address "$1:5432" \
        --load 2 --keys 300 --notes "$dir/notes" -o json
}

# Until the log of a process has a line like that, behind as many lines as it had.
await() { # NAME PATTERN [LINES]
    local end=$((SECONDS + 60))
    while [ $SECONDS -lt $end ]; do
        tail -n "+$((${3:-0} + 1))" "$dir/$1.log" | grep -- "$2" >/dev/null && return
        sleep 0.05
    done
    fail "$1 never said: $2"
}

lines() { wc -l <"$dir/$1.log"; }
ctl() { "$build/farpoolctl" "$@"; }

mkdir "$dir/notes"
export FARPOOL_COORDINATORS=shm://$dir/coordinator.sock
# A machine that stands still for two seconds loses nobody.
start coordinator "$build/farpool-coordinator" --listen "$FARPOOL_COORDINATORS" --name coordinator \
    --metastore "sqlite:$dir/metastore.db" --lost-ms 6000 --grace-ms 3000 --lease-ms 6000
await coordinator 'serving'
for i in 1 2 3; do
    start "mem$i" "$build/farpool-memnode" --listen "shm://$dir/mem$i.sock" --name "mem$i" --memory 128m \
        --coordinators "$FARPOOL_COORDINATORS"
done
start_compute one
start_compute two
await one '"connected"'
await two '"connected"'
ctl partition create orders --slab 24m --log-ring 48m --owner one --wait 2>/dev/null || fail "no partition"
await one '"compared"'
ctl route orders -o json | grep '"one:5432"' >/dev/null || fail "route does not tell one's address"

kill -KILL "${pids[one]}"
wait "${pids[one]}" || true
await two '"compared"'
before=$(lines one)
start_compute one
await one '"connected"' "$before"

kill -STOP "${pids[two]}"
await one '"compared"' "$before"
seen=$(lines two)
kill -CONT "${pids[two]}"
await two '"revoked"' "$seen"
await two '"closed"' "$seen"
tail -n "+$seen" "$dir/two.log" | grep '"wrong"' >/dev/null && fail "two has found what it should not"

seen=$(lines one)
ctl partition read-only orders >/dev/null
await one '"read-only"' "$seen"
kill -USR1 "${pids[one]}"
await one '"compared"' "$seen"
ctl partition read-write orders >/dev/null
await one '"writable"' "$seen"

seen=$(lines two)
kill -TERM "${pids[one]}"
wait "${pids[one]}" || fail "one ended with status $?"
unset 'pids[one]'
await two '"compared"' "$seen"
kill -TERM "${pids[two]}"
wait "${pids[two]}" || fail "two ended with status $?"
unset 'pids[two]'
echo "an owner killed, one stopped and one ended: each time the next one found all that was acknowledged"
