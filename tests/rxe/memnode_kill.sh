#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows over real soft-RoCE what tests/crash/memnode_kill.c and memnode_restart.c show elsewhere: a memory node is
# killed with kill -9 while faults are in flight; every waiting fault returns an error naming the node; one that is
# started again at the same address has lost its pages, which is said, and no other bytes are ever seen.
set -euo pipefail
# shellcheck disable=SC2016
exec scripts/rxe-vm -t 840 -- env FARPOOL_TEST_SCHEME=verbs FARPOOL_BUILD="$FARPOOL_BUILD" bash -c '
    timeout 400 "$FARPOOL_BUILD/tests/crash/memnode_kill" && timeout 400 "$FARPOOL_BUILD/tests/crash/memnode_restart"'
