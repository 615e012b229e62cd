#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that scripts/cluster starts a cluster of real processes, harms its nodes and puts them right, and leaves nothing
# behind; and what farpoolctl says to people and programs about it.
set -uo pipefail
build=${FARPOOL_BUILD:-$PWD/build}
ctl=$build/farpoolctl
export FARPOOL_BUILD=$build FARPOOL_CLUSTER_DIR=$build/cluster-$$
trap 'scripts/cluster down >/dev/null 2>&1; rm -f "$build/cluster-$$.out"' EXIT
out=$build/cluster-$$.out
fails=0

# expect CODE[|CODE...] 'PATTERN' COMMAND...: exit code, and a regular expression in stdout + stderr
expect() {
    local code=$1 pattern=$2 rc
    shift 2
    timeout 60 "$@" >"$out" 2>&1 </dev/null
    rc=$?
    if [[ "|$code|" != *"|$rc|"* ]] || { [ -n "$pattern" ] && ! grep -qE -- "$pattern" "$out"; }; then
        echo "FAILED ($rc, wanted $code and /$pattern/): $*"
        cat "$out"
        fails=$((fails + 1))
    fi
}

expect 1 'there is no cluster in' scripts/cluster status
expect 2 'is missing' scripts/cluster
expect 2 "no command 'frobnicate'" scripts/cluster frobnicate
expect 2 "up to 9, not 'many'" scripts/cluster up --coordinators many
expect 2 'wants --transport tcp' scripts/cluster up --isolate --transport shm
expect 2 'dir is empty' scripts/cluster up --dir ''
expect 2 'one at least' scripts/cluster up --coordinators 0
expect 0 'cut NODE' scripts/cluster --help
expect 2 'who would ask themselves' "$build/farpool-coordinator" --listen tcp://0.0.0.0:7000
expect 3 'no coordinator' "$ctl" --coordinators tcp://127.0.0.1:1 --timeout 200 status

# Ctrl-C in the midst of it, at a random moment, leaves nothing.
pause=0.$((RANDOM % 5))$((RANDOM % 10))
expect '124|130|0' '' timeout -s INT "$pause" scripts/cluster up --memory 64m
expect 0 '' scripts/cluster down
if pgrep -f "$FARPOOL_CLUSTER_DIR" || [ -e "$FARPOOL_CLUSTER_DIR" ]; then
    echo "up was interrupted after $pause s and left that"
    fails=$((fails + 1))
fi

# Two at once: the second one waits for the first, and finds all done. A machine that stands still for two seconds loses
# nobody.
scripts/cluster up --coordinators 2 --storagenodes 0 --computes 2 --memory 64m \
    --coordinator-option 'grace-ms 3000' --coordinator-option 'lost-ms 9000' --coordinator-option 'lease-ms 4000' >/dev/null 2>&1 &
expect 0 '' timeout 60 bash -c "until [ -e '$FARPOOL_CLUSTER_DIR/settings' ]; do sleep 0.01; done"
expect 0 '^export FARPOOL_COORDINATORS=tcp' scripts/cluster up
wait $! || { echo 'the first up failed' && fails=$((fails + 1)); }
[ "$(pgrep -fc "farpool-memnode .*$FARPOOL_CLUSTER_DIR/")" = 3 ] || { echo 'two ups have started more' && fails=$((fails + 1)); }
expect 1 'leave --memory out' scripts/cluster up --memory 32m
FARPOOL_COORDINATORS=$(cat "$FARPOOL_CLUSTER_DIR/coordinators")
export FARPOOL_COORDINATORS
expect 0 '^mem2 +[0-9]+ +running +tcp://127' scripts/cluster status
expect 1 'has cables' scripts/cluster cut mem1
expect 1 "no node 'mem9'" scripts/cluster kill mem9
expect 0 'mem1 +memory +up +z1' "$ctl" node list
expect 0 'led by coord' "$ctl" status

expect 0 'Its number is 1. It has taken effect' "$ctl" partition create orders --slab 8m --log-ring 1m --wait
expect 5 'E_EXISTS' "$ctl" partition create orders
expect 2 'E_INVAL' "$ctl" partition create 7
expect 4 'E_NOTFOUND' "$ctl" route nothing
expect 0 'orders +active +open +1 +comp1' "$ctl" route orders
expect 0 '"owner": "comp1"' "$ctl" route 1 -o json
expect 0 '1 +orders +active +open +1 +comp1' "$ctl" partition list
expect 0 'partition 1' "$ctl" events
expect 0 'nothing to move' "$ctl" balance
expect 0 'has taken effect' "$ctl" partition create items --slab 8m --log-ring 1m --owner comp1 --wait
expect 0 'orders: comp2 gets it .*comp1 has 2, comp2 had 0' "$ctl" balance --wait
expect 0 'orders +active +open +2 +comp2' "$ctl" route orders
expect 0 '"step": *""' "$ctl" balance -o json
expect 5 'E_BUSY' "$ctl" node remove mem1 --yes
expect 2 'wants --yes' "$ctl" partition delete orders
expect 0 'is to be read-only' "$ctl" partition read-only orders
expect 0 'orders +read-only' "$ctl" route orders
expect 0 'may be changed' "$ctl" partition read-write orders

expect 0 '' scripts/cluster pause mem1
expect 0 '^mem1 .* paused ' scripts/cluster status
expect 0 '' scripts/cluster resume mem1
expect 0 '' scripts/cluster kill coord1
expect 0 '^coord1 +- +ended ' scripts/cluster status
expect 0 'led by coord2' "$ctl" --timeout 55000 status
expect 0 '' scripts/cluster start coord1
expect 0 '^coord1 .* running ' scripts/cluster status
expect 0 'It has taken effect' "$ctl" --timeout 55000 partition delete orders --yes --wait
expect 4 'E_NOTFOUND' "$ctl" route orders
expect 0 '' scripts/cluster down
[ ! -e "$FARPOOL_CLUSTER_DIR" ] || { echo "down left $FARPOOL_CLUSTER_DIR" && fails=$((fails + 1)); }
if pgrep -f "$FARPOOL_CLUSTER_DIR" >/dev/null; then
    echo "down left processes:" && pgrep -af "$FARPOOL_CLUSTER_DIR"
    fails=$((fails + 1))
fi
expect 0 '' scripts/cluster down
[ "$fails" = 0 ]
