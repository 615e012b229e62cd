#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows the programs with secrets and keys: what is wrong with a file is said, keys are made, a coordinator and a memory node with
# a secret serve farpoolctl and farpool with a key and refuse them without; tcp with TLS, and shm.
set -uo pipefail
build=${FARPOOL_BUILD:-$PWD/build}
dir=$(mktemp -d)
pids=()
cleanup() {
    [ ${#pids[@]} = 0 ] || kill -KILL "${pids[@]}" 2>/dev/null
    rm -rf "$dir"
}
trap cleanup EXIT
fails=0
fail() {
    echo "FAILED: $*"
    fails=$((fails + 1))
}

# expect STATUS TEXT COMMAND...: it ends so and says that.
expect() {
    local status=$1 text=$2 got=0
    shift 2
    timeout 60 "$@" >"$dir/out" 2>&1 </dev/null || got=$?
    if [ "$got" != "$status" ] || ! grep -qF -- "$text" "$dir/out"; then
        fail "status $got, not $status, or no '$text': $*"
        cat "$dir/out"
    fi
}

# start NAME PROGRAM ARGUMENT...: its addresses are in $dir/NAME afterwards.
start() {
    local name=$1 program=$2
    shift 2
    mkfifo "$dir/fifo"
    "$build/$program" --name "$name" --log-level error "$@" --ready-fd 9 9>"$dir/fifo" &
    pids+=($!)
    read -r -t 60 ready <"$dir/fifo" || fail "$name is not ready"
    rm -f "$dir/fifo"
    grep -oE '(tcp|shm)://[^"]*' <<<"$ready" >"$dir/$name"
}

umask 077
head -c 32 /dev/urandom | base64 >"$dir/secret"
head -c 32 /dev/urandom | base64 >"$dir/other"
printf 'a\t1\nb\t2\n' >"$dir/tsv"

# ---- files ---------------------------------------------------------------------------------------------

for program in memnode coordinator; do
    run=("$build/farpool-$program" --listen tcp://127.0.0.1:0 --secret-file)
    expect 2 'No such file' "${run[@]}" "$dir/none"
    echo 'no secret' >"$dir/bad"
    expect 2 'neither a secret' "${run[@]}" "$dir/bad"
    install -m 640 "$dir/secret" "$dir/open"
    expect 2 'chmod 600' "${run[@]}" "$dir/open"
done
expect 0 'ann:' "$build/farpool" key ann --key-file "$dir/secret"
cp "$dir/out" "$dir/ann"
for name in farpool farpoolctl; do
    "$build/farpool" key $name --key-file "$dir/secret" >"$dir/$name.key" || fail "a key for $name"
done
"$build/farpool" key farpool --key-file "$dir/other" >"$dir/other.key" || fail "another key"
expect 1 'only the key of' "$build/farpool" key bob --key-file "$dir/ann"
expect 2 'needs --key-file' "$build/farpool" key bob
expect 1 'needs the cluster' "$build/farpool-memnode" --listen tcp://127.0.0.1:0 --memory 16m --secret-file "$dir/ann"

# ---- nodes that have it ----------------------------------------------------------------------------------

start m1 farpool-memnode --memory 64m --listen tcp://127.0.0.1:0 --listen "shm://$dir/m1.sock" --secret-file "$dir/secret"
epoch=0
while read -r uri; do
    load=("$build/farpool" load "$dir/tsv" -q --memnode "$uri")
    expect 0 verify "${load[@]}" --epoch $((++epoch)) --key-file "$dir/farpool.key"
    expect 0 verify "${load[@]}" --epoch $((++epoch)) --key-file "$dir/secret"
    expect 1 'key file' "${load[@]}" --epoch 9
    expect 1 'not of this cluster' "${load[@]}" --epoch 9 --key-file "$dir/other.key"
done <"$dir/m1"
[ "$(wc -l <"$dir/m1")" = 2 ] || fail "two addresses: $(cat "$dir/m1")"
expect 2 '--memnode' "$build/farpool" load "$dir/tsv" --key-file "$dir/farpool.key"

start k1 farpool-coordinator --metastore "sqlite:$dir/db" --listen tcp://127.0.0.1:0 --secret-file "$dir/secret"
ctl=("$build/farpoolctl" -c "$(cat "$dir/k1")" -t 30000)
expect 0 'led by k1' "${ctl[@]}" -k "$dir/farpoolctl.key" status
expect 1 'key file' "${ctl[@]}" status
expect 1 'not of this cluster' "${ctl[@]}" -k "$dir/other" status

# ---- and one that has none -------------------------------------------------------------------------------

start m2 farpool-memnode --memory 64m --listen tcp://127.0.0.1:0 --listen "shm://$dir/m2.sock"
while read -r uri; do
    expect 1 '--secret-file' "$build/farpool" load "$dir/tsv" -q --memnode "$uri" --key-file "$dir/farpool.key"
done <"$dir/m2"
for pid in "${pids[@]}"; do
    kill -TERM "$pid"
    wait "$pid" || fail "process $pid ended with $?"
done
pids=()
[ "$fails" = 0 ]
