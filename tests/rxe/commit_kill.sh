#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that no acknowledged commit is lost when compute process and memory nodes are killed with kill -9, over real
# soft-RoCE: tests/crash/commit_kill.c with log rings at verbs://.
set -euo pipefail
exec scripts/rxe-vm -t 840 -- env FARPOOL_TEST_SCHEME=verbs FARPOOL_BUILD="$FARPOOL_BUILD" \
    ROUNDS="${ROUNDS:-15}" "$FARPOOL_BUILD/tests/crash/commit_kill"
