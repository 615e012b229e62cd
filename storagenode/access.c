/* SPDX-License-Identifier: Apache-2.0 */
/* Who may do what with a partition: in a cluster its coordinators say who owns it and which memory nodes have its log rings
 * (docs/coordinator.md, What is said). Everybody else is refused, by the name that he has said, and proven where names are.
 * Who may be about to be named is told to come again (E_RETRY). Without coordinators all may do everything. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cluster/call.h"
#include "common/error.h"
#include "common/log.h"
#include "storagenode/node.h"

#define ADMIN "admin" /* names that begin so read whatever is here */

struct fp_access {
    uint64_t partition;
    uint64_t epoch; /* the highest that anybody has */
    uint64_t
        least; /* the lowest that its owner may have: while his memory nodes change, the one before too */
    const char *owner;   /* of node->access_said, as is: */
    const json_t *rings; /* names of memory nodes */
};

/* ---- what coordinators say ------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
    uint64_t x = ((const fp_access *)a)->partition, y = ((const fp_access *)b)->partition;
    return x < y ? -1 : x > y;
}

static uint64_t number(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

void fp_access_free(fp_storagenode *node)
{
    free(node->access);
    json_decref(node->access_said);
}

void fp_access_take(fp_storagenode *node, const json_t *duties)
{
    size_t i, count = 0;
    const json_t *entry, *list = json_object_get(duties, "partitions");
    json_t *said = json_deep_copy(duties);
    fp_access *access = calloc(json_array_size(list) + 1, sizeof *access);
    if (!said || !access) {
        fp_log(FP_LOG_ERROR, "no memory to note who may do what: it stays as it was");
        json_decref(said);
        free(access);
        return;
    }
    json_array_foreach(json_object_get(said, "partitions"), i, entry)
    {
        const char *owner = json_string_value(json_object_get(entry, "owner"));
        access[count] =
            (fp_access){number(entry, "partition"), number(entry, "epoch"), number(entry, "least"),
                        owner ? owner : "", json_object_get(entry, "rings")};
        count += access[count].partition != 0;
    }
    qsort(access, count, sizeof *access, compare);
    fp_access_free(node);
    node->access = access;
    node->access_count = count;
    node->access_said = said;
}

/* ---- requests -------------------------------------------------------------------------------- */

static bool is_read(enum fp_msg_type type)
{
    return type == FP_MSG_WAL_GET || type == FP_MSG_LOG_GET || type == FP_MSG_PAGE_GET ||
           type == FP_MSG_MANIFEST_GET || type == FP_MSG_FILE_GET;
}

/* What an owner does, and what the memory nodes do that have his log. */
static bool is_owners(enum fp_msg_type type)
{
    return type == FP_MSG_WAL_GET || type == FP_MSG_LOG_GET || type == FP_MSG_PAGE_GET ||
           type == FP_MSG_WAL_FENCE || type == FP_MSG_WAL_JOIN;
}

static bool is_rings(enum fp_msg_type type)
{
    return type == FP_MSG_WAL_GET || type == FP_MSG_WAL_OPEN || type == FP_MSG_WAL_APPEND ||
           type == FP_MSG_WAL_FENCE || type == FP_MSG_WAL_JOIN;
}

static int check_named(const fp_storagenode *node, const fp_access *access, const char *name,
                       const fp_msg *msg)
{
    bool ring = is_rings(msg->type) && fp_call_lists(access->rings, name);
    if (!ring && msg->epoch && msg->epoch < access->least)
        return fp_error(FARPOOL_E_FENCED,
                        "partition %" PRIu64 " is under epoch %" PRIu64
                        " now, as a coordinator has said; epoch %" PRIu64 " is lower",
                        msg->partition, access->epoch, msg->epoch);
    if (!ring && (!is_owners(msg->type) || strcmp(access->owner, name) != 0))
        return fp_error(FARPOOL_E_REFUSED,
                        "partition %" PRIu64 ": '%.80s' neither owns it nor has its log, as far as "
                        "%s has been told by a coordinator",
                        msg->partition, name, node->server.name);
    if (msg->epoch > access->epoch)
        return fp_error(FARPOOL_E_RETRY,
                        "%s has not been told by a coordinator of partition %" PRIu64
                        " under epoch %" PRIu64 " yet",
                        node->server.name, msg->partition, msg->epoch);
    return 0;
}

int fp_access_check(const fp_storagenode *node, const fp_storage_client *client)
{
    const fp_msg *msg = &node->server.request;
    const char *name = client->at.name;
    if (!node->in_cluster)
        return 0;
    if (!node->access)
        return fp_error(FARPOOL_E_RETRY, "%s has not been told its duties by a coordinator yet",
                        node->server.name);
    bool reads = fp_call_lists(json_object_get(node->access_said, "nodes"), name) ||
                 !strncmp(name, ADMIN, strlen(ADMIN));
    if (is_read(msg->type) && reads)
        return 0;
    const fp_access key = {.partition = msg->partition};
    const fp_access *access = bsearch(&key, node->access, node->access_count, sizeof key, compare);
    if (!access)
        return fp_error(FARPOOL_E_RETRY,
                        "%s has not been told by a coordinator of partition %" PRIu64,
                        node->server.name, msg->partition);
    return check_named(node, access, name, msg);
}
