#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Shows that a commit acknowledged with FARPOOL_DURABLE_STORAGE survives a power failure of everything. ROUNDS times a VM
# is started with memory nodes, storage nodes and an owner, over real soft-RoCE (tests/rxe/power_off.c); it recovers the
# partition, compares all of it with what was acknowledged before, and writes. It is ended by kill -9, while it recovers,
# while it works, or when it has just ended in order. Its disk is then made what a power cut leaves of it
# (tests/rxe/power_cut.c): all that was flushed, and of what was not, any part. ROUNDS=n and SEED=n, which draws all but
# the timing of the processes.
#
# The disk is virtio-blk, not QEMU's NVMe, for that one (7.2) says that it knows FUA and then ignores it: the file
# system's commits would really be lost.
# test-timeout: 900
set -euo pipefail
if [ "${1-}" = inside ]; then # in the VM: inside work|end SEED [umount]
    queue=/sys/block/vda/queue
    if [ "$(cat $queue/write_cache)" != 'write back' ] || [ "$(cat $queue/fua)" != 0 ]; then
        echo "the VM's disk has no volatile cache, or one that FUA goes around"
        exit 1
    fi
    notes=$(dirname "$(grep -lx 0x1110 /sys/bus/pci/devices/*/device)")/resource2
    mount /dev/vda /mnt
    for volume in /mnt/[0-9]; do
        [ ! -d "$volume" ] || "$FARPOOL_BUILD/farpool-storagenode" check "$volume"
    done
    "$FARPOOL_BUILD/tests/rxe/power_off" "$2" "$notes" /mnt "$3"
    [ "$4" = umount ] || exec sleep infinity
    for volume in /mnt/[0-9]; do
        "$FARPOOL_BUILD/farpool-storagenode" check "$volume"
    done
    umount /mnt
    exit
fi

rounds=${ROUNDS:-4}
seed=${SEED:-$(date +%N | sed 's/^0*//')}
echo "SEED=$seed"
dir=$(mktemp -d "$FARPOOL_BUILD/power-off-XXXXXX")
vm=
trap '[ -z "$vm" ] || { kill $vm && wait $vm; } 2>/dev/null || true; rm -rf "$dir"' EXIT
mkdir "$dir/shared"
truncate -s 4M "$dir/notes"
truncate -s 2G "$dir/disk"
# All of it is written now: no writing of zeros in the background, which blklogwrites may log in the wrong place.
/sbin/mkfs.ext4 -qF -E lazy_itable_init=0,lazy_journal_init=0 "$dir/disk"

start_vm() { # round, what power_off shall do, "umount" if the VM is to end in order
    rm -f "$dir"/shared/{opening,ready,ended} "$dir"/{log,pid}
    cp --sparse=always "$dir/disk" "$dir/running"
    : >"$dir/log"
    # Only QEMU is killed, so nothing of the host has to be flushed.
    scripts/rxe-vm -t 840 -s "$dir/shared" -x "-pidfile $dir/pid \
        -blockdev driver=file,node-name=running,filename=$dir/running,cache.no-flush=on \
        -blockdev driver=file,node-name=log,filename=$dir/log,cache.no-flush=on \
        -blockdev driver=blklogwrites,node-name=disk,file=running,log=log,log-sector-size=512 \
        -device virtio-blk-pci,drive=disk,write-cache=on,discard=off,write-zeroes=off \
        -object memory-backend-file,id=notes,mem-path=$dir/notes,size=4M,share=on \
        -device ivshmem-plain,memdev=notes" -- \
        bash "$0" inside "$2" $((seed + $1)) "${3-}" 2>"$dir/vm.err" &
    vm=$!
}

end_of_vm() { # it has ended, or will: its exit code
    local rc=0
    wait $vm || rc=$?
    vm=
    return $rc
}

ended_by_itself() { # when
    local rc=0
    end_of_vm || rc=$?
    cat "$dir/vm.err"
    [ $rc != 77 ] || exit 77 # it cannot be had here
    echo "the VM ended by itself ($rc) $1"
    exit 1
}

wait_for() { # mark
    while [ ! -e "$dir/shared/$1" ]; do
        kill -0 $vm 2>/dev/null || ended_by_itself "before it was $1"
        sleep 0.05
    done
}

cut_power() { # round
    local rc=0
    "$FARPOOL_BUILD/tests/rxe/power_cut" kill "$dir/log" "$(cat "$dir/pid")" $((seed + $1)) ||
        ended_by_itself "before its power was cut"
    end_of_vm || rc=$?
    [ $rc = 124 ] || [ $rc = 125 ] || { # rxe-vm's codes for a QEMU that was killed
        cat "$dir/vm.err"
        echo "what ran in the VM had ended with $rc"
        exit 1
    }
    "$FARPOOL_BUILD/tests/rxe/power_cut" replay "$dir/log" "$dir/disk" $((seed + $1))
    "$FARPOOL_BUILD/tests/rxe/power_off" fold "$dir/notes"
}

for round in $(seq "$rounds"); do
    RANDOM=$((seed + round))
    milliseconds=$((RANDOM % 4000))
    whens=(ready ready opening ended)
    when=${whens[RANDOM % 4]} what=work
    [ "$round" != 1 ] || when=ready
    # What is ended in order writes no more, and in seconds the file system would flush.
    [ "$when" != ended ] || milliseconds=0 what=end
    echo "round $round: power off $milliseconds ms after $when"
    start_vm "$round" $what
    wait_for "$when"
    sleep "$(printf '%d.%03d' $((milliseconds / 1000)) $((milliseconds % 1000)))"
    cut_power "$round"
done
echo "after $rounds rounds:"
start_vm 0 end umount
rc=0
end_of_vm || rc=$?
[ $rc = 0 ] || { cat "$dir/vm.err"; echo "the last VM ended with $rc"; exit 1; }
# All was flushed, so here the replay has to give what QEMU has left: it is right in the rounds before, too.
"$FARPOOL_BUILD/tests/rxe/power_cut" replay "$dir/log" "$dir/disk" "$seed"
cmp "$dir/disk" "$dir/running"
/sbin/e2fsck -fn "$dir/disk"
