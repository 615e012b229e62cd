#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows over real soft-RoCE what tests/unit/memnode.c shows elsewhere: above all that the keys of an epoch die with it,
# so that an old owner's READ or WRITE is refused from whatever connection it comes.
set -euo pipefail
exec scripts/rxe-vm -t 840 -- env FARPOOL_TEST_SCHEME=verbs timeout 800 "$FARPOOL_BUILD/tests/unit/memnode"
