/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A memory node in a cluster. What its duties say (docs/coordinator.md) is done at once, in this order: what is to be
 * dropped, under the epochs it was held; then the fences, which raise epochs; then where rings are spilled to. A fence stays
 * when there is no memory to remember it: those who were cut off are, and nobody is granted anything under its epoch.
 *
 * What a coordinator says is followed, but for what cannot be: epochs never fall.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/log.h"
#include "common/racy.h"
#include "common/ring.h"
#include "memnode/node.h"

/* ---- fences ---------------------------------------------------------------------------------- */

static fp_fence *find(const fp_memnode *node, uint64_t partition)
{
    for (uint32_t i = 0; i < node->fence_count; i++)
        if (node->fences[i].partition == partition)
            return &node->fences[i];
    return NULL;
}

int fp_node_check_told(const fp_memnode *node, const char *client, uint64_t partition,
                       uint64_t epoch)
{
    if (!node->in_cluster)
        return 0;
    const fp_fence *fence = find(node, partition);
    if (!node->told)
        return fp_error(FARPOOL_E_BUSY, "%s has not been told its duties by a coordinator yet",
                        node->server.name);
    if (!fence || fence->epoch < epoch)
        return fp_error(FARPOOL_E_BUSY,
                        "%s has not been told by a coordinator of partition %" PRIu64
                        " under epoch %" PRIu64,
                        node->server.name, partition, epoch);
    if (fence->epoch > epoch)
        return fp_error(FARPOOL_E_FENCED,
                        "partition %" PRIu64 " is under epoch %" PRIu64
                        " now, as a coordinator has said; epoch %" PRIu64 " is lower",
                        partition, fence->epoch, epoch);
    if (strcmp(fence->owner, client) != 0)
        return fp_error(FARPOOL_E_REFUSED,
                        "partition %" PRIu64 " under epoch %" PRIu64 " is %s's, not %s's",
                        partition, epoch, fence->owner[0] ? fence->owner : "nobody", client);
    return 0;
}

static void free_list(fp_fence *list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        free(list[i].owner);
    free(list);
}

void fp_node_free_fences(fp_memnode *node) { free_list(node->fences, node->fence_count); }

/* ---- duties ---------------------------------------------------------------------------------- */

static uint64_t number(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

static void raise_epoch(fp_memnode *node, const json_t *told, uint64_t partition, uint64_t epoch)
{
    uint32_t cut = 0;
    const fp_fence *before = find(node, partition);
    const char *owner = json_string_value(json_object_get(told, "owner"));
    int rc =
        fp_node_raise(node, partition, epoch, number(told, "held"), owner ? owner : "", NULL, &cut);
    if (rc)
        fp_log(FP_LOG_ERROR, "partition %" PRIu64 " epoch %" PRIu64 ": fenced, but %s", partition,
               epoch, farpool_errmsg());
    if (!before || before->epoch < epoch)
        fp_log(FP_LOG_INFO,
               "partition %" PRIu64 " epoch %" PRIu64 ": to be granted to %s; %" PRIu32
               " connections fenced",
               partition, epoch, owner ? owner : "nobody", cut);
}

/* Those that are named no more are remembered as released: lower epochs stay refused. */
static void replace_fences(fp_memnode *node, fp_fence *list, uint32_t count)
{
    fp_fence *before = node->fences;
    uint32_t before_count = node->fence_count;
    node->fences = list;
    node->fence_count = count;
    for (uint32_t i = 0; i < before_count; i++)
        if (!find(node, before[i].partition))
            fp_epochs_note(&node->released, before[i].partition, before[i].epoch);
    free_list(before, before_count);
}

static void take_fences(fp_memnode *node, const json_t *told)
{
    size_t i, room = json_array_size(told);
    uint32_t count = 0;
    const json_t *entry;
    fp_fence *list = calloc(room ? room : 1, sizeof *list);
    json_array_foreach(told, i, entry)
    {
        uint64_t partition = number(entry, "partition"), epoch = number(entry, "epoch");
        const char *owner = json_string_value(json_object_get(entry, "owner"));
        const fp_fence *before = find(node, partition);
        bool falls = before && before->epoch > epoch;
        if (!partition || !epoch || falls)
            fp_log(FP_LOG_WARN, "partition %" PRIu64 ": epoch %" PRIu64 " cannot be a duty",
                   partition, epoch);
        else
            raise_epoch(node, entry, partition, epoch);
        if (list && falls)
            list[count] = (fp_fence){partition, before->epoch, strdup(before->owner)};
        else if (list && partition && epoch)
            list[count] = (fp_fence){partition, epoch, strdup(owner ? owner : "")};
        if (list && list[count].owner)
            count++;
    }
    replace_fences(node, list, count);
    if (count < room)
        fp_log(FP_LOG_WARN, "%zu of %zu partitions are not granted to anybody here", room - count,
               room);
}

void fp_memnode_duties(fp_memnode *node, const json_t *duties)
{
    size_t i;
    const json_t *drop;
    json_array_foreach(json_object_get(duties, "drop"), i, drop)
        fp_node_drop(node, number(drop, "partition"), number(drop, "epoch"));
    take_fences(node, json_object_get(duties, "fences"));
    if (node->spill)
        fp_spill_target(node->spill, json_string_value(json_object_get(duties, "storage")));
    node->told = true;
    fp_node_retry_pending(node);
}

/* ---- actual state ---------------------------------------------------------------------------- */

/* Whoever was to fill it has not: it cannot speak for any commit. Its owner may be writing the line. */
static bool is_blank(const fp_memnode *node, const fp_grant *ring)
{
    fp_ring_owner line;
    const uint8_t *memory = node->extents.list[ring->extents[0]].mem.addr;
    fp_racy_copy(&line, memory + FP_RING_OWNER_AT, sizeof line);
    return !fp_ring_owner_is_valid(&line, ring->partition);
}

/* The epoch is the lowest that is not refused: what is under it may still be in use. */
static json_t *describe(const fp_memnode *node, uint64_t partition, uint64_t epoch)
{
    uint64_t bytes[FP_USES] = {0};
    bool blank = false;
    for (const fp_grant *g = node->grants; g; g = g->next) {
        if (g->partition != partition)
            continue;
        epoch = g->epoch < epoch ? g->epoch : epoch;
        bytes[g->use] = g->count * node->extents.extent_bytes;
        blank = blank || (g->use == FP_USE_RING && is_blank(node, g));
    }
    return json_pack("{s:I,s:I,s:I,s:I,s:b}", "id", (json_int_t)partition, "epoch",
                     (json_int_t)epoch, "ring", (json_int_t)bytes[FP_USE_RING], "slab",
                     (json_int_t)bytes[FP_USE_SLAB], "blank", (int)blank);
}

static bool is_first(const fp_memnode *node, const fp_grant *grant)
{
    const fp_grant *first = node->grants;
    while (first->partition != grant->partition)
        first = first->next;
    return first == grant;
}

static json_t *partitions(const fp_memnode *node)
{
    json_t *list = json_array();
    int failed = 0;
    for (uint32_t i = 0; i < node->fence_count; i++)
        failed |= json_array_append_new(
            list, describe(node, node->fences[i].partition, node->fences[i].epoch));
    for (const fp_grant *g = node->grants; g; g = g->next)
        if (!find(node, g->partition) && is_first(node, g))
            failed |= json_array_append_new(list, describe(node, g->partition, g->epoch));
    if (!failed)
        return list;
    json_decref(list);
    return NULL;
}

json_t *fp_memnode_actual(const fp_memnode *node)
{
    char boot_id[17], storage[FP_NET_URI_MAX] = "";
    fp_memnode_usage usage;
    fp_memnode_usage_get(node, &usage);
    snprintf(boot_id, sizeof boot_id, "%016" PRIx64, node->server.boot_id);
    if (node->spill)
        fp_spill_reached(node->spill, storage);
    return json_pack("{s:s,s:I,s:I,s:s?,s:I,s:I,s:o}", "boot_id", boot_id, "bytes",
                     (json_int_t)usage.bytes_total, "granted", (json_int_t)usage.bytes_granted,
                     "storage", storage[0] ? storage : NULL, "lag", (json_int_t)usage.spill.lag,
                     "gaps", (json_int_t)usage.spill.gaps, "partitions", partitions(node));
}
