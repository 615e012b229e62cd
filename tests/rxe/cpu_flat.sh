#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that a memory node's processor takes no part in page reads over verbs: its process uses as much processor time
# for 500,000 of them as for 50,000 (FARPOOL_TEST_READS asks for others).
set -euo pipefail
exec scripts/rxe-vm -t 400 -- env FARPOOL_BUILD="$FARPOOL_BUILD" \
    timeout 300 "$FARPOOL_BUILD/tests/rxe/cpu_flat" "${FARPOOL_TEST_READS:-50000}"
