#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that the doctor finds the RDMA device of a machine, its port and its GID for RoCE v2.
set -euo pipefail
if [ "${1-}" != inside ]; then
    exec scripts/rxe-vm -t 840 -- env FARPOOL_BUILD="$FARPOOL_BUILD" bash "$0" inside
fi
said=$("$FARPOOL_BUILD/tests/unit/doctor")
echo "$said"
said=${said#*"] this_machine"}
grep -Eq '^(ok|warn) +rxe0/1 +RoCE, active, MTU [0-9]+, GID 0000:0000:0000:0000:0000:ffff:0a4d:0001' <<<"$said"
grep -Eq '^ok +rdma +verbs:// can be used' <<<"$said"
