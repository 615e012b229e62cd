/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/failover.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/require.h"

failover_notes *failover_map(const char *path, bool make)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | (make ? O_CREAT | O_EXCL : 0), 0600);
    REQUIRE(fd >= 0);
    REQUIRE(!make || ftruncate(fd, sizeof(failover_notes)) == 0);
    void *at = mmap(NULL, sizeof(failover_notes), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE(at != MAP_FAILED);
    close(fd);
    return at;
}

/* The valid one with the highest epoch below that. */
static failover_owner *before(failover_notes *notes, uint64_t epoch)
{
    failover_owner *last = NULL;
    uint32_t count = atomic_load(&notes->owners);
    for (uint32_t i = 0; i < count && i < FAILOVER_OWNERS; i++) {
        failover_owner *owner = &notes->owner[i];
        if (atomic_load(&owner->valid) && owner->epoch < epoch &&
            (!last || owner->epoch > last->epoch))
            last = owner;
    }
    return last;
}

failover_owner *failover_last(failover_notes *notes) { return before(notes, UINT64_MAX); }

static void wrong(const failover_notes *notes, const failover_owner *earlier,
                  const failover_owner *owner, unsigned key)
{
    const failover_value *found = &owner->found[key], *base = earlier ? &earlier->found[key] : NULL;
    fprintf(stderr,
            "key %u: owner %td (%s, epoch %llu) found write %u of owner %d; owner %td (%s, epoch "
            "%llu) before it had found write %u of owner %d, tried %u and was told that %u are "
            "durable\n",
            key, owner - notes->owner, owner->process, (unsigned long long)owner->epoch,
            found->count, (int)found->owner - 1, earlier ? earlier - notes->owner : -1,
            earlier ? earlier->process : "nobody", earlier ? (unsigned long long)earlier->epoch : 0,
            base ? base->count : 0, base ? (int)base->owner - 1 : -1,
            earlier ? atomic_load(&earlier->tried[key]) : 0,
            earlier ? atomic_load(&earlier->acked[key]) : 0);
    exit(1);
}

/* What an owner found is what the one before it wrote last, or found in turn: not less than was acknowledged to that one,
 * were it noted later than the other one has read; and no other owner's, in particular not of one fenced earlier. */
static void compare(const failover_notes *notes, failover_owner *earlier, failover_owner *owner)
{
    uint32_t writer = earlier ? (uint32_t)(earlier - notes->owner) + 1 : 0;
    for (unsigned key = 0; key < FAILOVER_KEYS; key++) {
        failover_value found = owner->found[key];
        bool good;
        if (!earlier)
            good = !found.owner;
        else if (found.owner == writer)
            good = found.count >= atomic_load(&earlier->acked[key]) &&
                   found.count <= atomic_load(&earlier->tried[key]);
        else
            good = !atomic_load(&earlier->acked[key]) && found.owner == earlier->found[key].owner &&
                   found.count == earlier->found[key].count;
        if (!good)
            wrong(notes, earlier, owner, key);
    }
}

void failover_verify(failover_notes *notes)
{
    uint32_t count = atomic_load(&notes->owners);
    for (uint32_t i = 0; i < count && i < FAILOVER_OWNERS; i++) {
        failover_owner *owner = &notes->owner[i];
        if (!atomic_load(&owner->valid))
            continue;
        for (uint32_t k = 0; k < i; k++) {
            if (!atomic_load(&notes->owner[k].valid) || notes->owner[k].epoch != owner->epoch)
                continue;
            fprintf(stderr, "%s and %s both own the partition under epoch %llu\n",
                    notes->owner[k].process, owner->process, (unsigned long long)owner->epoch);
            exit(1);
        }
        compare(notes, before(notes, owner->epoch), owner);
    }
}
