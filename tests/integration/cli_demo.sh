#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that `farpool demo` runs from end to end on small inputs of each kind, over each transport of this machine, in
# both mappings, that its JSON says every record came back, and that no acknowledged one was lost when processes were
# killed; and that nothing is left behind.
set -euo pipefail
export FARPOOL_BUILD=${FARPOOL_BUILD:-$PWD/build}
dir=$(mktemp -d)
export TMPDIR=$dir
trap 'rm -rf "$dir"' EXIT
seq 1 20000 | sed 's/.*/key&\tvalue number & with some more bytes behind it, so that pages fill up/' >"$dir/tsv"
seq 1 20000 | sed 's/$/ bottles of beer on the wall, and a line that goes on for a while after that/' >"$dir/lines"
for i in $(seq 1 5000); do printf 'Package: p%d\nVersion: 1.%d\nDescription: something %d\n %0300d\n\n' "$i" "$i" "$i" "$i"; done >"$dir/packages"
for case in 'tsv shm frames' 'lines shm vm' 'packages tcp frames' 'tsv tcp vm'; do
    read -r file transport mapping <<<"$case"
    "$FARPOOL_BUILD/farpool" demo "$dir/$file" --transport "$transport" --mapping "$mapping" --seconds 0.2 -q -o json >"$dir/out"
    python3 - "$dir/out" "$transport" <<'P'
import json, os, sys
r = json.load(open(sys.argv[1]))
assert r["verified"] and r["all_went_out"] and len(r["phases"]) == 7, r
assert all(p["operations"] > 0 for p in r["phases"]), r
# Each record's page was fetched: the pool was emptied before each of the two verifications.
for i in (1, 6):
    assert r["phases"][i]["operations"] == r["records"], r
    assert r["phases"][i]["bytes_in"] > r["bytes"], "not everything went out and came back"
assert sys.argv[2] != "shm" or r["memnode_cpu_bytes"] == 0, r
survive = r["survive"]
if "left_out" in survive: # the storage node has said why, on stderr
    print("survive was left out:", survive["left_out"])
    sys.exit(0)
for killed in ("compute_killed", "memory_node_killed", "all_killed"):
    k = survive[killed]
    assert 0 < k["records"] <= r["records"] and k["writes"] > 0 and k["compared_seconds"] > 0, r
    if killed != "memory_node_killed":
        assert 0 < k["open_ms"] < k["first_record_ms"], r
assert survive["memory_node_killed"]["longest_pause_ms"] > 0, r
assert survive["memory_node_killed"]["taken_in_ms"] > 0, r
# No memory node had anything any more.
assert survive["all_killed"]["pages_from_storage"] > 0, r
P
    echo "$case: good"
done
"$FARPOOL_BUILD/farpool" demo "$dir/tsv" --transport shm --seconds 0.2 -q >"$dir/out"
if grep -q '^survive: left out' "$dir/out"; then
    cat "$dir/out"
else
    [ "$(grep -c 'kill -9 of' "$dir/out")" = 3 ] && [ "$(grep -c 'nothing lost' "$dir/out")" = 3 ]
fi
[ -z "$(find "$dir" -mindepth 1 -type d)" ] || { # scratch directories, volumes
    ls -R "$dir"
    exit 1
}
