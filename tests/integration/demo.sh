#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that the demo runs from end to end, over SQLite and, where it is installed, etcd: each kill has its line, writes
# go on after it, no acknowledged one is missing, and nothing is left behind.
# test-timeout: 600
set -euo pipefail
export FARPOOL_BUILD=${FARPOOL_BUILD:-$PWD/build}
dir=$(mktemp -d)
export TMPDIR=$dir
trap 'rm -rf "$dir"' EXIT

scripts/demo --help | grep 'kill -9' >/dev/null
rc=0
scripts/demo --transport smoke 2>/dev/null || rc=$?
[ "$rc" = 2 ]
scripts/demo --sqlite --transport shm -o json >"$dir/out"
python3 - "$dir/out" <<'P'
import json, sys
r = json.load(open(sys.argv[1]))
harms = {h["what"]: h for h in r["harms"]}
assert len(harms) == 6 and r["missing"] == 0 and r["acknowledged"] > 1000, r
for what in ("the owner", "nothing: the owner is ended in order", "all at once"):
    assert harms[what]["compared"] and harms[what]["pause_ms"] >= harms[what]["compared"][0]["since_last_ms"], harms[what]
kinds = lambda what: [e["kind"] for e in harms[what]["events"]]
assert "failover" in kinds("the owner") and "fenced" in kinds("the owner"), r
assert "changed" in kinds("a memory node with a log ring") and "storage" in kinds("a storage node with its log"), r
for what, h in harms.items():
    print(f"{what}: {h['pause_ms']} ms, {h['well_ms']} ms, {h['result']}")
P
rows=6
! command -v etcd >/dev/null || rows=7
scripts/demo -q >"$dir/out"
cat "$dir/out"
[ "$(grep -c ' s  ' "$dir/out")" = $rows ] && grep -q 'none is missing' "$dir/out"
[ -z "$(find "$dir" -mindepth 1 -type d)" ] || {
    ls -R "$dir"
    exit 1
}
