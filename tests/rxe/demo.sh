#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows `farpool demo` over verbs:// in the VM, in both mappings: every record comes back, the memory nodes' CPUs touch
# none of it, and no acknowledged write is lost when processes are killed. Small data: processors are emulated there.
# test-timeout: 700
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
seq 1 12000 | sed 's/.*/key&\trecord & goes to a memory node and comes back by an RDMA READ, which no CPU there sees/' >"$dir/tsv"
for mapping in frames vm; do
    # The storage node's volume is on ext4 on a loop device in memory.
    scripts/rxe-vm -t 840 -- env FARPOOL_BUILD="$FARPOOL_BUILD" bash -euc '
        mkdir /run/disk
        truncate -s 1g /dev/shm/disk
        mkfs.ext4 -q /dev/shm/disk
        mount -o loop /dev/shm/disk /run/disk
        TMPDIR=/run/disk exec "$FARPOOL_BUILD/farpool" demo "$1" --transport verbs --host 10.77.0.1 --mapping "$2" \
            --seconds 1 -q -o json
    ' bash "$dir/tsv" "$mapping" >"$dir/out"
    python3 - "$dir/out" <<'P'
import json, sys
r = json.load(open(sys.argv[1]))
assert r["transport"].startswith("verbs://"), r
assert r["verified"] and r["all_went_out"] and r["memnode_cpu_bytes"] == 0, r
assert r["phases"][1]["misses"] > 0 and all(p["operations"] > 0 for p in r["phases"]), r
survive = r["survive"]
assert "left_out" not in survive, survive
for killed in ("compute_killed", "memory_node_killed", "all_killed"):
    assert survive[killed]["records"] > 0 and survive[killed]["writes"] > 0, r
assert survive["all_killed"]["pages_from_storage"] > 0, r
print(survive)
print(r["mapping"], "faults p50", r["phases"][2]["fault_p50_us"], "us")
P
done
