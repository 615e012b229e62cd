/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/memnode_check.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

enum { LOOK = 64 }; /* bytes looked at: all would take too long */

static void check_grant(const fp_memnode *node, const fp_grant *grant, uint8_t *owners)
{
    FP_ASSERT(grant->partition && grant->count >= 1 && grant->count <= node->extents.count);
    for (const fp_grant *other = grant->next; other; other = other->next)
        FP_ASSERT(other->partition != grant->partition ||
                  (other->use != grant->use && other->epoch == grant->epoch));
    for (uint32_t i = 0; i < grant->count; i++) {
        uint32_t extent = grant->extents[i];
        FP_ASSERT(extent < node->extents.count && ++owners[extent] == 1);
        FP_ASSERT(node->extents.list[extent].state == FP_EXTENT_GRANTED);
    }
}

void memnode_check(const fp_memnode *node)
{
    static const uint8_t zero[LOOK];
    const fp_extents *extents = &node->extents;
    uint8_t *owners = calloc(extents->count, 1);
    uint32_t granted = 0, free_count = 0;
    FP_ASSERT(owners);
    for (const fp_grant *grant = node->grants; grant; grant = grant->next) {
        check_grant(node, grant, owners);
        granted += grant->count;
    }
    free(owners);
    for (uint32_t i = 0; i < extents->count; i++) {
        const fp_extent_memory *extent = &extents->list[i];
        FP_ASSERT(extent->state == FP_EXTENT_GRANTED || extent->state == FP_EXTENT_FREE);
        if (extent->state != FP_EXTENT_FREE)
            continue;
        free_count++;
        const uint8_t *bytes = extent->mem.addr;
        FP_ASSERT(!memcmp(bytes, zero, LOOK));
        FP_ASSERT(!memcmp(bytes + extents->extent_bytes - LOOK, zero, LOOK));
    }
    FP_ASSERT(granted + free_count == extents->count);
    FP_ASSERT(extents->free == free_count && !extents->dirty);
    fp_memnode_usage usage;
    fp_memnode_usage_get(node, &usage);
    FP_ASSERT(usage.bytes_total == extents->count * extents->extent_bytes);
    FP_ASSERT(usage.bytes_granted == granted * extents->extent_bytes);
    FP_ASSERT(!usage.bytes_clearing && !usage.bytes_lost && !usage.pending && !node->pending);
}

bool memnode_reaches(const fp_memnode *node, const fp_client *client, const fp_mr *mr)
{
    for (uint32_t i = 0; i < client->attached_count; i++) {
        const fp_grant *grant = client->attached[i];
        for (uint32_t k = 0; k < grant->count; k++) {
            const fp_extent_memory *extent = &node->extents.list[grant->extents[k]];
            if (extent->mrs[client->at.net] == mr)
                return true;
        }
    }
    return false;
}
