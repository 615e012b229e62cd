#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows the demo over verbs:// in the VM, in both mappings: every record comes back, and the memory nodes' CPUs touch
# none of it. Small data: processors are emulated there.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
seq 1 12000 | sed 's/.*/key&\trecord & goes to a memory node and comes back by an RDMA READ, which no CPU there sees/' >"$dir/tsv"
for mapping in frames vm; do
    scripts/rxe-vm -t 200 -- env FARPOOL_BUILD="$FARPOOL_BUILD" \
        scripts/demo "$dir/tsv" --mapping "$mapping" --seconds 1 -q -o json >"$dir/out"
    python3 - "$dir/out" <<'P'
import json, sys
r = json.load(open(sys.argv[1]))
assert r["transport"].startswith("verbs://"), r
assert r["verified"] and r["all_went_out"] and r["memnode_cpu_bytes"] == 0, r
assert r["phases"][1]["misses"] > 0 and all(p["operations"] > 0 for p in r["phases"]), r
print(r["mapping"], "faults p50", r["phases"][2]["fault_p50_us"], "us")
P
done
