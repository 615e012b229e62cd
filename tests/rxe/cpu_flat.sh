#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that a memory node's processor takes no part in page reads over verbs: tests/integration/cpu_flat.c, with 50,000
# and 500,000 of them.
set -euo pipefail
exec scripts/rxe-vm -t 840 -- env FARPOOL_BUILD="$FARPOOL_BUILD" FARPOOL_TEST_SCHEME=verbs \
    FARPOOL_TEST_READS="${FARPOOL_TEST_READS:-50000}" timeout 800 "$FARPOOL_BUILD/tests/integration/cpu_flat"
