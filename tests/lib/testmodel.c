/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/testmodel.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/server.h"
#include "tests/lib/require.h"

void test_model_open(fp_model *model)
{
    *model = (fp_model){.settings = {FP_HEARTBEAT_MS, FP_GRACE_MS, FP_LOST_MS, FP_REPLACE_MS,
                                     FP_REPLACE_STORAGE_MS},
                        .now_ns = fp_ms(3600 * 1000),
                        .next_partition = 1,
                        .next_event = 1,
                        .term = 7,
                        .revision = 10};
}

fp_member *test_model_member(fp_model *model, enum fp_role role, const char *name, const char *zone,
                             uint64_t bytes)
{
    fp_member_record r = {.role = role, .bytes = bytes, .boot_id = 1, .standby = true};
    snprintf(r.name, sizeof r.name, "%s", name);
    snprintf(r.zone, sizeof r.zone, "%s", zone);
    snprintf(r.host, sizeof r.host, "%s", name);
    snprintf(r.uris[0], sizeof r.uris[0], "tcp://%s:1", name);
    r.uri_count = 1;
    test_must(fp_model_put_member(model, &r, ++model->revision), "a node");
    fp_member *member = fp_model_member(model, name);
    member->joined = member->heard_of = true;
    fp_member_heard(model, member);
    return member;
}

void test_model_set(fp_model *model, const char *name, enum fp_member_state state,
                    const char *storage, uint64_t boot_id)
{
    fp_member_record r = fp_model_member(model, name)->r;
    r.state = state;
    r.boot_id = boot_id;
    snprintf(r.storage, sizeof r.storage, "%s", storage);
    test_must(fp_model_put_member(model, &r, ++model->revision), "a node");
}

fp_part *test_model_part(fp_model *model, const char *name)
{
    fp_part_record r = {.id = model->next_partition++,
                        .log_copies = 3,
                        .log_quorum = 2,
                        .storage_quorum = 1,
                        .memnode_count = 3,
                        .slab_bytes = 8 << 20,
                        .space_bytes = 1 << 30,
                        .log_ring_bytes = 1 << 20};
    snprintf(r.name, sizeof r.name, "%s", name);
    test_must(fp_model_put_part(model, &r, ++model->revision), "a partition");
    return fp_model_part(model, r.id);
}

void test_model_pass(fp_model *model, unsigned ms)
{
    model->now_ns += fp_ms(ms);
    for (size_t i = 0; i < model->member_count; i++) {
        if (model->members[i]->joined)
            fp_member_heard(model, model->members[i]);
    }
}

void test_model_tell(fp_model *model, const char *name, const char *partitions)
{
    char text[2000];
    snprintf(text, sizeof text, "{\"partitions\": [%s]}", partitions);
    for (char *c = text; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    json_t *actual = json_loads(text, 0, NULL);
    REQUIRE(actual);
    fp_member *member = fp_model_member(model, name);
    REQUIRE(member);
    test_must(fp_member_tell(model, member, actual), "telling");
    member->seen = model->revision;
    json_decref(actual);
}

size_t test_model_decide(fp_model *model)
{
    fp_changes changes;
    static fp_txn txn;
    test_must(fp_changes_open(&changes), "changes");
    fp_decide(model, &changes);
    size_t count = changes.count;
    if (count) {
        test_must(fp_txn_make(&txn, model, &changes, 0), "a transaction");
        txn.req.revision = model->revision + 1;
        test_must(fp_txn_apply(&txn, model, &changes), "its effect");
        fp_txn_close(&txn);
    }
    fp_changes_close(&changes);
    return count;
}

void test_model_settle(fp_model *model)
{
    for (unsigned i = 0; test_model_decide(model); i++)
        REQUIRE(i < 100);
}
