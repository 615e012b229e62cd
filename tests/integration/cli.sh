#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows what the farpool command answers: values, ranges, exit codes, and clear errors for bad input.
set -uo pipefail
farpool=${FARPOOL_BUILD:-$PWD/build}/farpool
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fails=0

# expect CODE 'PATTERN' COMMAND...: exit code, and a regular expression in stdout + stderr
expect() {
    local code=$1 pattern=$2 out rc
    shift 2
    out=$(timeout 60 "$@" 2>&1 </dev/null)
    rc=$?
    if [ "$rc" != "$code" ] || ! grep -qE -- "$pattern" <<<"$out"; then
        echo "FAILED ($rc, wanted $code and /$pattern/): $*"
        echo "$out"
        fails=$((fails + 1))
    fi
}

printf 'b\ttwo\na\tone\nc\tthree\nb\ttwo again' >"$dir/tsv"
expect 0 '^one$' "$farpool" get "$dir/tsv" a -q
expect 0 '^two again$' "$farpool" get "$dir/tsv" b -q
expect 3 "no record 'zz'" "$farpool" get "$dir/tsv" zz -q
expect 0 '^c.three$' "$farpool" scan "$dir/tsv" --from bb -q
expect 0 '^a.one$' "$farpool" scan "$dir/tsv" --reverse --from az -q
expect 0 '1 records were replaced' "$farpool" load "$dir/tsv"
expect 0 '"verified": true' "$farpool" load "$dir/tsv" -q -o json
expect 0 'farpool COMMAND' "$farpool" --help
expect 0 'storage node under load' "$farpool" demo --help
# Where a storage node does not start, and where the memory nodes are others', nothing is killed, and that is said.
mkdir "$dir/bin"
cp "$farpool" "$farpool-memnode" "$dir/bin/"
ln -s /bin/false "$dir/bin/farpool-storagenode"
expect 0 'survive: left out: the storage node did not start' "$dir/bin/farpool" demo "$dir/tsv" -q --seconds 0.1
expect 0 '"left_out": "the storage node' "$dir/bin/farpool" demo "$dir/tsv" -q --seconds 0.1 -o json
"$farpool-memnode" --listen "shm://$dir/node.sock" --memory 128m --ready-file "$dir/ready" 2>/dev/null &
memnode=$!
trap 'kill "$memnode"; rm -rf "$dir"' EXIT
while [ ! -e "$dir/ready" ] && kill -0 "$memnode"; do sleep 0.05; done
expect 0 'survive: left out: it kills memory nodes' "$farpool" demo "$dir/tsv" -q --seconds 0.1 --memnode "shm://$dir/node.sock"
expect 1 'making a directory like' env TMPDIR="$dir/nothing" "$farpool" demo "$dir/tsv" -q --seconds 0.1
expect 0 '"survive": null' "$farpool" load "$dir/tsv" -q -o json
expect 0 '^farpool [0-9]' "$farpool" --version
expect 2 'command and a file' "$farpool"
expect 2 'no such command' "$farpool" frobnicate "$dir/tsv"
expect 2 'farpool --help' "$farpool" load "$dir/tsv" --wrong
expect 2 'frames or vm' "$farpool" load "$dir/tsv" --mapping exmap
expect 2 'out of range' "$farpool" load "$dir/tsv" --threads 0
expect 2 'out of range' "$farpool" load "$dir/tsv" --pool 5
expect 2 'which keys' "$farpool" get "$dir/tsv"
expect 1 'No such file' "$farpool" load "$dir/nothing"
expect 1 'expected verbs' "$farpool" load "$dir/tsv" --memnode nonsense
expect 1 'nobody|refused|No such file|not' "$farpool" load "$dir/tsv" --memnode shm:///tmp/farpool-nobody.sock
: >"$dir/empty"
expect 1 'is empty' "$farpool" load "$dir/empty"
printf 'a\tb\nno tab here\n' >"$dir/bad"
expect 1 'bad:2: no tab' "$farpool" load "$dir/bad"
{ head -c 600 /dev/zero | tr '\0' k; printf '\tv\n'; } >"$dir/long"
expect 1 'long:1: a key of 600 bytes' "$farpool" load "$dir/long"
printf 'Package: x\nDescription: no version\n' >"$dir/package"
expect 1 'without Package or Version' "$farpool" load "$dir/package"
{ printf 'k\t'; head -c 300000 /dev/urandom | tr -d '\n'; printf '\nl\t\n\0z\tnul\0inside\n'; } >"$dir/odd"
expect 0 'came back' "$farpool" load "$dir/odd" -q
# A count of records that the usual step of the scattered order has a divisor in common with.
seq 1 23757 >"$dir/count"
expect 0 '"verified": true' "$farpool" load "$dir/count" -q -o json
# Nothing was compared, or nothing is known: then nothing is claimed.
expect 0 'larger than 1/8 of the data' "$farpool" load "$dir/tsv" -q
expect 0 '"all_went_out": true' "$farpool" bench "$dir/tsv" -q --seconds 0.1 -o json
expect 0 'some from the pool' "$farpool" load "$dir/count" -q --pool 8m --slab 5m
# Values just too long for a leaf have pages of their own: the slab that is asked for has room for them.
head -c 30000000 /dev/zero | tr '\0' v | fold -w 1100 >"$dir/own"
expect 0 'came back' "$farpool" load "$dir/own" -q
printf 'Package: x\nVersion: 1\nArchitecture: %s\n\n' amd64 i386 >"$dir/architectures"
expect 0 'i386' "$farpool" get "$dir/architectures" x:i386=1 -q
expect 3 'no record' "$farpool" get "$dir/architectures" x=1 -q
printf 'Package: x\0y\nVersion: 1\n\nPackage: x\0z\nVersion: 1\n' >"$dir/nul"
expect 0 '"records": 2' "$farpool" load "$dir/nul" -q -o json
expect 0 'tsv:4: the last line has no end' "$farpool" load "$dir/tsv"
expect 2 'out of range' "$farpool" load "$dir/tsv" --threads 2.5
expect 1 'writing to standard output' bash -c "'$farpool' scan '$dir/count' -q --count 20000 >/dev/full"
[ "$fails" = 0 ]
