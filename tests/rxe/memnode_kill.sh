#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows over real soft-RoCE what tests/crash/memnode_kill.c shows elsewhere: a memory node killed with kill -9 while
# faults are in flight; every waiting fault returns an error naming the node.
set -euo pipefail
exec scripts/rxe-vm -t 200 -- env FARPOOL_TEST_SCHEME=verbs FARPOOL_BUILD="$FARPOOL_BUILD" \
    timeout 150 "$FARPOOL_BUILD/tests/crash/memnode_kill"
