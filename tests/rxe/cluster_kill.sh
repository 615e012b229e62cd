#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that a cluster of processes loses nothing that it has acknowledged when any of them are killed with kill -9, over
# real soft-RoCE: tests/crash/cluster_kill.c with everything at verbs://, its volumes on a disk of the VM.
# test-timeout: 900
# ROUNDS=n, LIMIT_S=n (60): no round begins later than that; the VM ends VM_S (840) seconds after its start.
set -euo pipefail
disk=$(mktemp "$FARPOOL_BUILD/cluster-kill-XXXXXX.img")
trap 'rm -f "$disk"' EXIT
truncate -s 12G "$disk"
/sbin/mkfs.ext4 -qF "$disk"
# The test makes its volumes in FARPOOL_BUILD and finds its programs there.
scripts/rxe-vm -t "${VM_S:-840}" -x "-drive if=none,id=disk,file=$disk,format=raw,cache=writeback -device nvme,drive=disk,serial=1" -- \
    env FARPOOL_TEST_SCHEME=verbs ROUNDS="${ROUNDS:-20}" LIMIT_S="${LIMIT_S:-60}" FARPOOL_BUILD="$FARPOOL_BUILD" bash -ec '
    mount /dev/nvme0n1 /mnt
    cp "$FARPOOL_BUILD/farpool-memnode" "$FARPOOL_BUILD/farpool-storagenode" /mnt/
    FARPOOL_BUILD=/mnt exec "$FARPOOL_BUILD/tests/crash/cluster_kill"'
