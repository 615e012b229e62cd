#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows farpool-memnode as a process: options and configuration with their mistakes, the ready file,
# signals, an address that is taken, CPU time that stays flat when idle, and nothing left behind.
set -euo pipefail
daemon=${FARPOOL_BUILD:-build}/farpool-memnode
dir=$(mktemp -d)
. tests/lib/daemon.bash

socket=$dir/node.sock

# Options.
timeout 60 "$daemon" --help >"$dir/out"
for option in listen memory extent-units numa-node storage http config log-level name ready-fd ready-file; do
    grep -q -- "--$option " "$dir/out" || fail "--help does not name --$option"
done
timeout 60 "$daemon" --version | grep -q '^farpool-memnode [0-9]*\.[0-9]*\.[0-9]*$' || fail "--version"
refused 2 'give --listen'
refused 2 'unknown option --lisn' --lisn x
refused 2 'those who connect' --listen shm://m@/tmp/x
refused 2 "unexpected argument 'x'" --listen "shm://$socket" x
refused 2 "unknown transport" --listen carrier-pigeon://here
refused 2 "--storage: 'carrier-pigeon://here': unknown transport" --listen "shm://$socket" --storage carrier-pigeon://here
refused 2 "--http: 'here' is not HOST:PORT" --listen "shm://$socket" --http here
refused 2 "port must be 0 to 65535" --listen tcp://127.0.0.1:99999
refused 2 "--memory: 'much' is not a size" --listen "shm://$socket" --memory much
refused 2 "--extent-units: 3000 is no power of two" --listen "shm://$socket" --extent-units 3000
refused 2 "--extent-units: '512' is not a number from 1024" --listen "shm://$socket" --extent-units 512
refused 2 "--log-level: 'loud' is not one of" --listen "shm://$socket" --log-level loud
refused 2 "--ready-fd: descriptor 77 is not open" --listen "shm://$socket" --ready-fd 77
refused 1 'is too little' --listen "shm://$socket" --memory 1m
refused 1 'but this machine has' --listen "shm://$socket" --memory 4000t
refused 1 "$dir/none/x.sock" --listen "shm://$dir/none/x.sock" --memory 8m
refused 1 'NUMA node 1023' --listen "shm://$socket" --memory 8m --numa-node 1023

# Configuration.
refused 2 "$dir/missing.conf" --config "$dir/missing.conf"
printf 'memory = 8m\nmemroy = 9m\n' >"$dir/bad.conf"
refused 2 "$dir/bad.conf:2: unknown key 'memroy'" --config "$dir/bad.conf"
printf '# a node\n\nmemory = big # too vague\n' >"$dir/bad.conf"
refused 2 "$dir/bad.conf:3: memory: 'big' is not a size" --config "$dir/bad.conf"
printf '# a node\nlisten = shm://%s.other\nlisten = shm://%s.third\nmemory = 16m\nname = filed\n' \
    "$socket" "$socket" >"$dir/good.conf"

# File alone: both its addresses.
start --config "$dir/good.conf"
[[ $ready == *'"name":"filed"'*"shm://$socket.other"*"shm://$socket.third"* ]] || fail "ready: $ready"
stop TERM
# Flags win: another address instead of the file's, two transports, port 0 resolved.
start --config "$dir/good.conf" --listen "shm://$socket" --listen tcp://127.0.0.1:0 --memory 32m \
    --http 127.0.0.1:0 --ready-file "$dir/ready.json"
http=$(sed 's/.*"http":"\([^"]*\)".*/\1/' "$dir/ready.json")
[[ $http == 127.0.0.1:[1-9]* ]] || fail "ready: $ready"
[[ $ready == *'"pid":'"$node"* ]] || fail "ready: $ready"
[[ $ready == *"shm://$socket\",\"tcp://127.0.0.1:"[1-9]* ]] || fail "ready: $ready"
[[ $ready != *.other* ]] || fail "ready: $ready"
[[ $ready == *'"extents":7,"extent_bytes":4292608'* ]] || fail "ready: $ready"
[ "$(cat "$dir/ready.json")" = "$ready" ] || fail "ready file: $(cat "$dir/ready.json")"

# Taken addresses.
refused 1 "$socket" --listen "shm://$socket" --memory 8m
tcp=$(sed 's/.*\(tcp:[^"]*\)".*/\1/' "$dir/ready.json")
refused 1 "$tcp" --listen "$tcp" --memory 8m

# What serves HTTP has its address, too.
refused 1 "listening on $http for HTTP" --listen "shm://$socket.2" --memory 8m --http "$http"

# Idle means idle.
idles

kill -USR1 "$node"
stop TERM
grep -q 'usage: 0 bytes granted of 28.7 MiB to 0 partitions' "$dir/node.err" || fail "$(cat "$dir/node.err")"
grep -q 'ending on Terminated' "$dir/node.err" || fail "$(cat "$dir/node.err")"
[ ! -e "$socket" ] || fail "$socket is left behind"
[ ! -e "$dir/ready.json" ] || fail "the ready file is left behind"

# With a storage node that is not there, which it needs no earlier than it has a log ring.
start --listen "shm://$socket" --memory 8m --storage "shm://$dir/storage.sock"
[ "$(ls "/proc/$node/task" | wc -l)" = 2 ] || fail "not two threads: $(ls "/proc/$node/task")"
idles
kill -USR1 "$node"
stop TERM
grep -q '0 bytes of redo log not spilled (0 rings cannot be)' "$dir/node.err" || fail "$(cat "$dir/node.err")"

# A node that was killed leaves its socket; the next one takes it over.
start --listen "shm://$socket" --memory 8m
kill -KILL "$node"
wait "$node" 2>/dev/null || true
start --listen "shm://$socket" --memory 8m
stop INT
[ ! -e "$socket" ] || fail "$socket is left behind"
echo "memnode_daemon: all as expected"
