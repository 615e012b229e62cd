#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows farpool-storagenode as a process: options and configuration with their mistakes, the volume and its lock, the
# ready file, signals, CPU time that stays flat when idle, and nothing left behind but the volume.
set -euo pipefail
daemon=${FARPOOL_BUILD:-build}/farpool-storagenode
dir=$(mktemp -d "${FARPOOL_BUILD:-build}/farpool-storagenode-XXXXXX")
. tests/lib/daemon.bash

socket=/tmp/farpool-storagenode-$$.sock
volume=$dir/volume
mkdir "$volume"

# Options.
timeout 60 "$daemon" --help >"$dir/out"
for option in volume listen segment-size layer-size http config log-level name ready-fd ready-file; do
    grep -q -- "--$option " "$dir/out" || fail "--help does not name --$option"
done
timeout 60 "$daemon" --version | grep -q '^farpool-storagenode [0-9]*\.[0-9]*\.[0-9]*$' || fail "--version"
refused 2 'give --listen' --volume "$volume"
refused 2 'give --volume' --listen "shm://$socket"
refused 2 'unknown option --memory' --memory 1g
refused 2 "--segment-size: 4k is not from 64k" --listen "shm://$socket" --segment-size 4k
refused 2 "--segment-size: 100001 is not" --listen "shm://$socket" --segment-size 100001
refused 2 "--layer-size: 2g is not from 64k" --listen "shm://$socket" --layer-size 2g
refused 2 "unknown transport" --listen carrier-pigeon://here

# Configuration, the ready line and file.
printf 'volume = %s\nlisten = shm://%s\nname = filed # a node\n' "$volume" "$socket" >"$dir/good.conf"
start --config "$dir/good.conf" --ready-file "$dir/ready.json"
[[ $ready == *'"name":"filed"'*"shm://$socket"* ]] || fail "ready: $ready"
[[ $ready == *'"pid":'"$node"* && $ready == *'"partitions":0'* ]] || fail "ready: $ready"
[ "$(cat "$dir/ready.json")" = "$ready" ] || fail "ready file: $(cat "$dir/ready.json")"
id=$(sed 's/.*"volume_id":"\([0-9a-f]*\)".*/\1/' <<<"$ready")
[ ${#id} = 16 ] || fail "ready: $ready"

# One process on a volume; what is no volume.
refused 1 'another process serves it' --volume "$volume" --listen "shm://$socket.2"
refused 1 "$dir/none" --volume "$dir/none" --listen "shm://$socket.2"

# Idle means idle.
idles

kill -USR1 "$node"
stop TERM
grep -q 'usage: 0 bytes of log of 0 partitions' "$dir/node.err" || fail "$(cat "$dir/node.err")"
grep -q 'ending on Terminated' "$dir/node.err" || fail "$(cat "$dir/node.err")"
[ ! -e "$socket" ] || fail "$socket is left behind"
[ ! -e "$dir/ready.json" ] || fail "the ready file is left behind"
[ "$(ls "$volume")" = $'lock\nvolume' ] || fail "on the volume: $(ls "$volume")"

# The volume keeps its number, also when the node was killed; a copy of it goes bad, then both.
start --volume "$volume" --listen "shm://$socket" --listen tcp://127.0.0.1:0
[[ $ready == *"\"volume_id\":\"$id\""* ]] || fail "another volume: $ready"
kill -KILL "$node"
wait "$node" 2>/dev/null || true
printf 'x' | dd of="$volume/volume" bs=1 seek=16 conv=notrunc status=none
start --volume "$volume" --listen "shm://$socket"
[[ $ready == *"\"volume_id\":\"$id\""* ]] || fail "another volume: $ready"
stop INT
printf 'x' | dd of="$volume/volume" bs=1 seek=4112 conv=notrunc status=none
refused 1 'not known which volume this is' --volume "$volume" --listen "shm://$socket"
rm "$volume/volume"
touch "$volume/wal-0000000000000007-state"
refused 1 "there are WALs but no file 'volume'" --volume "$volume" --listen "shm://$socket"
echo "storagenode_daemon: all as expected"
