#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that a cluster goes on whichever node is killed or stopped, and loses nothing, over real soft-RoCE:
# tests/failover/failover.c with coordinators, memory, storage and compute nodes at verbs://, and three members of etcd; all
# their files on a disk of the VM.
# test-timeout: 900
# ROUNDS=n, LIMIT_S=n (30): no round begins later than that; the VM ends VM_S (840) seconds after its start.
set -euo pipefail
command -v etcd >/dev/null || { echo "etcd is not installed; see scripts/install-deps" && exit 77; }
disk=$(mktemp "$FARPOOL_BUILD/failover-XXXXXX.img")
trap 'rm -f "$disk"' EXIT
truncate -s 8G "$disk"
/sbin/mkfs.ext4 -qF "$disk"
# The test makes its cluster in FARPOOL_BUILD and finds its programs there.
scripts/rxe-vm -t "${VM_S:-840}" -x "-drive if=none,id=disk,file=$disk,format=raw,cache=writeback -device nvme,drive=disk,serial=1" -- \
    env VERBS=10.77.0.1 ROUNDS="${ROUNDS:-1000}" LIMIT_S="${LIMIT_S:-30}" FARPOOL_BUILD="$FARPOOL_BUILD" bash -ec '
    mount /dev/nvme0n1 /mnt
    mkdir -p /mnt/tests/failover
    cp "$FARPOOL_BUILD"/farpool{,ctl,-coordinator,-memnode,-storagenode} /mnt/
    cp "$FARPOOL_BUILD/tests/failover/failover" /mnt/tests/failover/
    FARPOOL_BUILD=/mnt exec /mnt/tests/failover/failover'
