#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows what a cut link does to faults in flight over verbs: each ends in time, with an error that names the memory
# node and the reason; when the link is back, faults connect again and the pages are right. Two VMs, joined by a wire
# of their own: within one machine rxe hands packets over itself, so that tc and nftables never see one, and
# `ip link set d0 down` is no silence but an error of the sender's device at once.
# First the memory node's link goes down (silence) and comes back, then the pool's own goes down for good: rxe's own
# queue pair for the connection manager may not survive that.
set -euo pipefail
if [ "${1-}" = inside ]; then # in both VMs: the wire's interface and an RDMA device on it
    address=$2
    shift 2
    # Otherwise packets wait in the interface's ring while it is down, and rxe waits with destroying a queue pair
    # (for 50 s) until none of its packets is left.
    echo N >/sys/module/virtio_net/parameters/napi_tx
    card=$(basename "$(readlink -f /sys/class/net/eth0/device)")
    for step in unbind bind; do echo "$card" >/sys/bus/virtio/drivers/virtio_net/$step; done
    ip link set eth0 mtu 4200 up
    ip addr add "$address/24" dev eth0
    rdma link add rxe1 type rxe netdev eth0
    exec "$@"
fi
if [ "${1-}" = serve ]; then # in the memory node's VM: does as the files in the shared directory say
    "$FARPOOL_BUILD/farpool-memnode" --listen verbs://10.78.0.1:7471 --memory 24m --ready-file /run/ready &
    until [ -e /run/ready ]; do sleep 0.1; done
    touch /run/vm/ready
    while kill -0 $! 2>/dev/null; do
        for state in down up; do
            if [ -e /run/vm/$state ]; then
                ip link set eth0 $state
                mv /run/vm/$state /run/vm/$state.done
            fi
        done
        if [ -e /run/vm/end ]; then
            kill $!
            break
        fi
        sleep 0.02
    done
    wait $!
    exit
fi

dir=$(mktemp -d /tmp/farpool-link.XXXXXX)
mkdir "$dir/shared"
node=
trap '[ -z "$node" ] || kill $node 2>/dev/null; wait; rm -rf "$dir"' EXIT
vm() { # own number, the other's, command...
    local own=$1 other=$2
    shift 2
    scripts/rxe-vm -t 840 -c 1 -m 1024 -s "$dir/shared" -x "-netdev dgram,id=wire,local.type=unix,local.path=$dir/$own\
,remote.type=unix,remote.path=$dir/$other -device virtio-net-pci,netdev=wire,host_mtu=4300,mac=52:54:00:78:00:0$own" \
        -- bash "$0" inside "10.78.0.$own" "$@"
}
vm 1 2 bash "$0" serve >"$dir/node.log" 2>&1 &
node=$!
rc=0
# shellcheck disable=SC2016
vm 2 1 bash -c 'until [ -e /run/vm/ready ]; do sleep 0.1; done
    "$FARPOOL_BUILD/tests/rxe/link_cut" verbs://10.78.0.1:7471 \
        "touch /run/vm/down" "touch /run/vm/up; until [ -e /run/vm/up.done ]; do sleep 0.02; done" \
        "ip link set eth0 down"
    rc=$?
    touch /run/vm/end
    exit $rc' || rc=$?
wait $node || { echo "the node's VM: exit code $?"; [ $rc != 0 ] || rc=1; }
node=
[ $rc = 0 ] || cat "$dir/node.log"
exit $rc
