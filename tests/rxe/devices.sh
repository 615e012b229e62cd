#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows what a memory node says when RDMA is not as it should be: an address without a device, no way there, a device
# whose link is down, a limit on locked memory that is too low, no device at all. Each time it ends with status 1 and
# a sentence that names the address and says what to do.
set -euo pipefail
if [ "${1-}" != inside ]; then
    exec scripts/rxe-vm -t 840 -- env FARPOOL_BUILD="$FARPOOL_BUILD" bash "$0" inside
fi

export RES_OPTIONS='timeout:1 attempts:1'
bad=0
said=$(mktemp)
refused() { # what is expected in the message, command...
    local expected=$1 rc=0
    shift
    timeout 200 "$@" 2>"$said" || rc=$?
    grep 'error:' "$said" || cat "$said"
    if [ $rc != 1 ] || ! grep 'error:' "$said" | grep -Eq "$expected"; then
        echo "FAILED: exit code $rc, expected the words: $expected"
        bad=1
    fi
}
node() { echo "$FARPOOL_BUILD/farpool-memnode --listen verbs://$1:7471 --memory 24m"; }

# shellcheck disable=SC2046
{
    ip addr add 10.99.0.1/24 dev dummy0 && ip link set dummy0 up
    refused "10.99.0.1:7471: no RDMA device has this address.*rdma link.*E_UNSUPPORTED" $(node 10.99.0.1)
    refused "203.0.113.1:7471: no way there.*unreachable.*E_NODE" $(node 203.0.113.1)
    refused "'nowhere.invalid' is not known.*E_NODE" $(node nowhere.invalid)
    ip link set d0 down
    refused "port 1 of RDMA device rxe0 is not active.*ip link set.*E_NODE" $(node 10.77.0.1)
    ip link set d0 up
    refused "may lock only 1024 KiB.*ulimit -l.*E_NOMEM" \
        setpriv --bounding-set -ipc_lock bash -c "ulimit -l 1024; exec $(node 10.77.0.1)"
    rdma link delete rxe0
    refused "10.77.0.1:7471: no RDMA.*rdma link.*E_UNSUPPORTED" $(node 10.77.0.1)
}
exit $bad
