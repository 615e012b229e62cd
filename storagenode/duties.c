/* SPDX-License-Identifier: Apache-2.0 */
/* A storage node in a cluster: what coordinators say it is to be, and what it tells them (docs/coordinator.md). */
#include <inttypes.h>
#include <stdio.h>

#include "common/cluster/call.h"
#include "storagenode/refill.h"

void fp_storagenode_duties(fp_storagenode *node, const json_t *duties)
{
    size_t i;
    const json_t *drop;
    json_array_foreach(json_object_get(duties, "drop"), i, drop)
    {
        json_int_t partition = json_integer_value(json_object_get(drop, "partition"));
        json_int_t epoch = json_integer_value(json_object_get(drop, "epoch"));
        if (partition > 0 && epoch > 0)
            fp_stored_drop(node, (uint64_t)partition, (uint64_t)epoch);
    }
    fp_access_take(node, duties);
    fp_refill_set_peers(node, json_object_get(duties, "peers"));
}

/* Whole: all of the partition is here, or nothing is known that is not. Text: why it cannot be appended to. */
static json_t *describe(const fp_stored *log)
{
    bool open = log->state == FP_STORED_OPEN;
    bool whole = open && log->pages.state == FP_PAGES_OPEN && !fp_refill_needs(log);
    char text[sizeof log->trouble];
    fp_call_words(text, sizeof text, log->state == FP_STORED_BROKEN ? log->reason : log->trouble);
    return json_pack("{s:I,s:I,s:I,s:I,s:b,s:s}", "id", (json_int_t)log->partition, "epoch",
                     (json_int_t)log->promised, "start",
                     open ? (json_int_t)fp_wal_start(log->wal) : 0, "durable",
                     open ? (json_int_t)fp_wal_durable(log->wal) : 0, "whole", whole, "text", text);
}

json_t *fp_storagenode_actual(fp_storagenode *node)
{
    char volume[17];
    fp_storagenode_usage usage;
    json_t *list = json_array();
    bool failed = false;
    fp_storagenode_usage_get(node, &usage);
    snprintf(volume, sizeof volume, "%016" PRIx64, node->volume_id);
    for (fp_stored *log = node->logs; log; log = log->next) {
        log->drop_failed = 0; /* the time to try again */
        failed = json_array_append_new(list, describe(log)) || failed;
    }
    json_t *actual = json_pack("{s:s,s:I,s:I,s:I,s:o}", "volume", volume, "bytes",
                               (json_int_t)usage.bytes_total, "log", (json_int_t)usage.bytes_log,
                               "lag", (json_int_t)usage.bytes_lag, "partitions", list);
    if (!failed)
        return actual;
    json_decref(actual);
    return NULL;
}
