/* SPDX-License-Identifier: Apache-2.0 */
/* Events are written with the changes that they tell of (change.c), and read from the metastore when somebody asks. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "coordinator/inside.h"
#include "coordinator/record.h"

enum { LIMIT = 100, READS_MAX = 4 /* under way: other work is not to wait for many */ };

static void was_read(fp_meta_req *req)
{
    fp_call *call = req->user;
    fp_coordinator *c = call->coordinator;
    uint64_t next = (uint64_t)json_integer_value(json_object_get(call->params, "from"));
    json_t *events = json_array();
    int rc = req->status;
    for (size_t i = 0; i < req->kv_count && !rc; i++) {
        json_t *event = json_loadb(req->kvs[i].value, req->kvs[i].len, 0, NULL);
        uint64_t seq = strtoull(req->kvs[i].key + strlen("events/"), NULL, 10);
        next = seq + 1;
        if (!json_is_object(event) || json_array_append(events, event))
            rc = fp_error(FARPOOL_E_CORRUPT, "%s: the value is no JSON object", req->kvs[i].key);
        json_decref(event);
    }
    free(req->kvs);
    call->reading = false;
    c->tick_ns = 0; /* others may wait for their turn */
    if (!rc)
        call->answer = json_pack("{s:O, s:I}", "events", events, "next", (json_int_t)next);
    json_decref(events);
    if (!c->closing)
        fp_call_finish(c, call, rc);
}

static void read_events(fp_coordinator *c, fp_call *call)
{
    uint64_t from = (uint64_t)json_integer_value(json_object_get(call->params, "from"));
    json_int_t limit = json_integer_value(json_object_get(call->params, "limit"));
    snprintf(call->after, sizeof call->after, "events/%020" PRIu64, from - 1);
    call->reading = true;
    call->req = (fp_meta_req){.kind = FP_META_RANGE,
                              .key = "events/",
                              .after = call->after,
                              .limit = (size_t)limit,
                              .done = was_read,
                              .user = call};
    fp_meta_submit(c->meta, &call->req);
}

int fp_events_run(fp_coordinator *c, fp_call *call)
{
    fp_reader in = {.object = call->params, .where = "events", .code = FARPOOL_E_INVAL};
    uint64_t from = fp_read_number(&in, "from", 0, INT64_MAX, 1);
    uint64_t limit = fp_read_number(&in, "limit", 1, FP_META_RANGE_MAX, LIMIT);
    uint64_t wait_ms = fp_read_number(&in, "wait_ms", 0, FP_WAIT_MAX_MS, 0);
    if (in.rc)
        return in.rc;
    json_t *kept =
        json_pack("{s:I, s:I}", "from", (json_int_t)(from ? from : 1), "limit", (json_int_t)limit);
    if (!kept)
        return fp_error(FARPOOL_E_NOMEM, "events: no memory");
    json_decref(call->params); /* it may be large, and waits */
    call->params = kept;
    call->later = true;
    call->until_ns = c->model.now_ns + fp_ms(wait_ms);
    c->tick_ns = 0;
    return 0;
}

void fp_events_look(fp_coordinator *c)
{
    unsigned reads = 0;
    for (const fp_call *call = c->calls; call; call = call->next)
        reads += call->reading;
    for (fp_call *call = c->calls; call && reads < READS_MAX; call = call->next) {
        if (!call->later || call->reading || !call->session)
            continue;
        json_int_t from = json_integer_value(json_object_get(call->params, "from"));
        if (c->model.next_event > (uint64_t)from || c->model.now_ns >= call->until_ns) {
            read_events(c, call);
            reads++;
        }
    }
}
