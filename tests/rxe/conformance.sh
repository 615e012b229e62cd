#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that the verbs backend keeps the transport contract: the whole conformance suite over real soft-RoCE.
# test-timeout: 420
set -u
export FARPOOL_TEST_URI=verbs://10.77.0.1:0
exec scripts/rxe-vm -t 840 -- bash -c '
failed=0
for test in "$@"; do
    [[ $test == */disk* ]] && continue # the other contract, which needs no network
    echo "== $test"
    timeout 400 "$test"
    rc=$?
    if [ $rc != 0 ] && [ $rc != 77 ]; then
        echo "== $test: exit code $rc"
        failed=1
    fi
done
exit $failed' conformance "$FARPOOL_BUILD"/tests/conformance/[a-z]*[a-z]
