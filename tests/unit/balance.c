/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that balancing gives nodes that have joined their share, step by step: memory nodes, storage nodes, owners; that
 * it never goes back, ends, and takes no step while anything is under way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "coordinator/place.h"
#include "tests/lib/require.h"
#include "tests/lib/testmodel.h"
#include "tests/lib/testnode.h"

#define BYTES (100ull << 20)
enum { STEPS_MAX = 60 };

static fp_model model;
static unsigned grants = 100; /* percent of what is asked for that memory nodes grant */
static char deaf[16];         /* a storage node that never has all */

/* What the node would tell of the partition if it had done all that it is to do. */
static size_t tell_one(const fp_member *member, const fp_part *part, char *text, size_t room)
{
    const fp_part_record *r = &part->r;
    unsigned long long id = r->id, epoch = r->epoch;
    fp_list to;
    fp_decide_storagenodes(&model, &r->memnodes, r->log_copies, &to);
    int at = fp_list_index(&r->memnodes, member->r.name);
    if (at >= 0)
        return (size_t)snprintf(
            text, room, "{'id': %llu, 'epoch': %llu, 'ring': 1048576, 'slab': %llu},", id, epoch,
            (unsigned long long)(fp_place_bytes(r, (unsigned)at) * grants / 100 - 1048576));
    if (!strcmp(deaf, member->r.name))
        return 0;
    if (fp_list_has(&to, member->r.name) || fp_list_has(&r->storagenodes, member->r.name))
        return (size_t)snprintf(
            text, room, "{'id': %llu, 'epoch': %llu, 'durable': 900, 'whole': true},", id, epoch);
    if (!strcmp(r->owner, member->r.name))
        return (size_t)snprintf(text, room, "{'id': %llu, 'epoch': %llu, 'state': 'open'},", id,
                                epoch);
    return 0;
}

static void tell_all(void)
{
    for (size_t i = 0; i < model.member_count; i++) {
        char text[1900] = "";
        size_t len = 0;
        for (size_t k = 0; k < model.part_count; k++)
            len += tell_one(model.members[i], model.parts[k], text + len, sizeof text - len);
        if (len)
            text[len - 1] = 0;
        test_model_tell(&model, model.members[i]->r.name, text);
    }
}

/* All nodes do what they are to do until nothing more is decided. */
static void settle(void)
{
    do {
        test_model_pass(&model, 3000);
        tell_all();
    } while (test_model_decide(&model));
}

/* One step, put into effect; what it says, or "". */
static const char *step(void)
{
    static char text[400];
    static fp_txn txn;
    fp_changes changes;
    test_must(fp_changes_open(&changes), "changes");
    test_must(fp_balance(&model, &changes), "balancing");
    assert_true(changes.count <= 1);
    snprintf(text, sizeof text, "%s", changes.count ? changes.items[0].event.text : "");
    if (changes.count) {
        test_must(fp_txn_make(&txn, &model, &changes, 0), "a transaction");
        txn.req.revision = model.revision + 1;
        test_must(fp_txn_apply(&txn, &model, &changes), "its effect");
        fp_txn_close(&txn);
    }
    fp_changes_close(&changes);
    return text;
}

static int refused(void)
{
    fp_changes changes;
    test_must(fp_changes_open(&changes), "changes");
    int rc = fp_balance(&model, &changes);
    assert_int_equal(changes.count, 0);
    fp_changes_close(&changes);
    return rc;
}

static unsigned balance(void)
{
    unsigned steps = 0;
    for (; step()[0]; steps++) {
        assert_true(steps < STEPS_MAX);
        settle();
    }
    return steps;
}

static void add(enum fp_role role, const char *stem, unsigned first, unsigned count)
{
    for (unsigned i = first; i < first + count; i++) {
        char name[16], zone[16];
        snprintf(name, sizeof name, "%s%u", stem, i);
        snprintf(zone, sizeof zone, "z%u", i % 3);
        test_model_member(&model, role, name, zone, BYTES);
    }
}

static void add_parts(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "p%u", i);
        test_model_part(&model, name);
    }
    settle();
}

static int set_up(void **state)
{
    (void)state;
    test_model_open(&model);
    grants = 100;
    deaf[0] = 0;
    add(FP_ROLE_STORAGE, "s", 0, 3);
    add(FP_ROLE_MEMORY, "m", 0, 3);
    add(FP_ROLE_COMPUTE, "c", 0, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fp_model_clear(&model);
    return 0;
}

static unsigned parts_of(const char *name)
{
    return fp_place_parts(&model, fp_model_member(&model, name));
}
static unsigned rings_of(const char *name)
{
    return fp_place_rings(&model, fp_model_member(&model, name));
}

static void what_is_even_stays(void **state)
{
    (void)state;
    add_parts(4);
    assert_string_equal(step(), "");
}

/* Each of the new ones is in the zone of one that is there, so zones stay apart, and halves are moved. */
static void new_memory_nodes_get_their_share(void **state)
{
    (void)state;
    add_parts(8);
    add(FP_ROLE_MEMORY, "m", 3, 3);
    settle();
    assert_int_equal(balance(), 12);
    for (unsigned i = 0; i < 6; i++) {
        char name[4] = {'m', (char)('0' + i), 0};
        assert_int_equal(rings_of(name), 4);
    }
    for (size_t i = 0; i < model.part_count; i++) {
        unsigned zones = 0;
        const fp_list *list = &model.parts[i]->r.memnodes;
        for (unsigned k = 0; k < 3; k++)
            zones |= 1u << (fp_model_member(&model, list->names[k])->r.zone[1] - '0');
        assert_int_equal(zones, 7);
    }
}

/* All were in one zone. */
static void a_new_zone_is_used(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        strcpy(model.members[model.member_count - 6 + i]->r.zone, "z0");
    add_parts(2);
    test_model_member(&model, FP_ROLE_MEMORY, "n", "z9", BYTES);
    settle();
    const char *text = step();
    assert_non_null(strstr(text, "memory node n takes the place of"));
    assert_non_null(strstr(text, "stands close to others"));
    settle();
    assert_int_equal(balance(), 1);
    assert_int_equal(rings_of("n"), 2);
}

static void new_storage_nodes_get_their_share(void **state)
{
    (void)state;
    add(FP_ROLE_MEMORY, "m", 3, 6);
    add_parts(6);
    add(FP_ROLE_STORAGE, "s", 3, 3);
    settle();
    (void)balance();
    unsigned spillers[6] = {0};
    for (unsigned i = 0; i < 9; i++) {
        char name[4] = {'m', (char)('0' + i), 0};
        spillers[fp_model_member(&model, name)->r.storage[1] - '0']++;
    }
    for (unsigned i = 0; i < 6; i++)
        assert_in_range(spillers[i], 1, 2);
}

static void new_compute_nodes_get_their_share(void **state)
{
    (void)state;
    add_parts(7);
    add(FP_ROLE_COMPUTE, "c", 1, 2);
    fp_member *own = test_model_member(&model, FP_ROLE_COMPUTE, "own", "", 0);
    own->r.standby = false; /* it takes nothing that it is not given by name */
    settle();
    assert_int_equal(balance(), 4);
    assert_int_equal(parts_of("c0"), 3);
    assert_int_equal(parts_of("c1"), 2);
    assert_int_equal(parts_of("c2"), 2);
    assert_int_equal(parts_of("own"), 0);
}

static void it_waits_for_what_is_under_way(void **state)
{
    (void)state;
    add_parts(4);
    add(FP_ROLE_COMPUTE, "c", 1, 1);
    add(FP_ROLE_MEMORY, "m", 3, 1);
    settle();
    assert_true(step()[0]);
    assert_int_equal(refused(), FARPOOL_E_BUSY);
    assert_non_null(strstr(farpool_errmsg(), "is changing"));
    settle();
    assert_string_equal(deaf, "");
    strcpy(deaf, model.parts[0]->r.storagenodes.names[0]);
    tell_all();
    assert_int_equal(refused(), FARPOOL_E_BUSY);
    assert_non_null(strstr(farpool_errmsg(), "is being copied"));
}

/* It would be changed for ever: there is nothing from which another memory node could be filled. */
static void without_storage_nodes_memory_stays(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        fp_model_remove_member(&model, (char[3]){'s', (char)('0' + i), 0});
    add_parts(4);
    assert_int_equal(model.parts[0]->r.phase, FP_OPEN);
    add(FP_ROLE_MEMORY, "m", 3, 3);
    settle();
    assert_string_equal(step(), "");
}

/* Of one that has storage_quorum of storage nodes none can be empty for a time. */
static void a_storage_node_that_is_needed_stays(void **state)
{
    (void)state;
    add_parts(2);
    for (size_t i = 0; i < model.part_count; i++)
        model.parts[i]->r.storage_quorum = 3;
    add(FP_ROLE_MEMORY, "x", 0, 6); /* without rings: they share storage nodes with the others */
    add(FP_ROLE_STORAGE, "s", 3, 3);
    settle();
    fp_part_record before[2] = {model.parts[0]->r, model.parts[1]->r};
    while (step()[0])
        settle();
    for (size_t i = 0; i < 2; i++)
        for (unsigned k = 0; k < 3; k++)
            assert_true(
                fp_list_has(&model.parts[i]->r.storagenodes, before[i].storagenodes.names[k]) ||
                !fp_list_same(&before[i].memnodes, &model.parts[i]->r.memnodes));
}

/* There is no other memory node in the place of one that is lost; owners are evened out all the same. */
static void what_lacks_a_memory_node_holds_up_nobody(void **state)
{
    (void)state;
    add_parts(4);
    fp_member_gone(&model, fp_model_member(&model, "m2"), false);
    add(FP_ROLE_COMPUTE, "c", 1, 1);
    settle();
    assert_int_equal(balance(), 2);
    assert_int_equal(parts_of("c0"), 2);
}

static void what_came_to_nothing_is_not_repeated(void **state)
{
    (void)state;
    add_parts(4);
    add(FP_ROLE_COMPUTE, "c", 1, 1);
    add(FP_ROLE_MEMORY, "m", 3, 3);
    settle();
    for (size_t i = 0; i < model.part_count; i++) {
        strcpy(model.parts[i]->avoid, "m4");
        strcpy(model.parts[i]->declined, "c1");
    }
    assert_string_equal(step(), "");
    model.parts[2]->declined[0] = 0;
    assert_int_equal(balance(), 1);
    assert_string_equal(model.parts[2]->r.owner, "c1");
}

/* With as many rings in the quorum as there are none can go. */
static void what_cannot_go_stays(void **state)
{
    (void)state;
    add_parts(4);
    for (size_t i = 0; i < model.part_count; i++)
        model.parts[i]->r.log_quorum = 3;
    add(FP_ROLE_MEMORY, "m", 3, 3);
    settle();
    assert_string_equal(step(), "");
}

/* Nodes of any size anywhere: it ends, and who has much has no more than before. */
static void it_always_ends(void **state)
{
    (void)state;
    uint64_t random = test_seed(4711);
    for (unsigned round = 0; round < 30; round++) {
        char name[16], zone[16];
        tear_down(NULL);
        set_up(NULL);
        add_parts(1 + (unsigned)(test_random(&random) % 10));
        grants = 80 + (unsigned)(test_random(&random) % 200);
        unsigned more = 1 + (unsigned)(test_random(&random) % 6);
        for (unsigned i = 0; i < more; i++) {
            snprintf(name, sizeof name, "x%u", i);
            snprintf(zone, sizeof zone, "z%u", (unsigned)(test_random(&random) % 5));
            enum fp_role role = (enum fp_role)(test_random(&random) % FP_ROLES);
            uint64_t bytes = (20 + test_random(&random) % 300) << 20;
            test_model_member(&model, role, name, zone, bytes);
        }
        settle();
        (void)balance();
        assert_string_equal(step(), "");
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_even_stays),
        TEST(new_memory_nodes_get_their_share),
        TEST(a_new_zone_is_used),
        TEST(new_storage_nodes_get_their_share),
        TEST(new_compute_nodes_get_their_share),
        TEST(it_waits_for_what_is_under_way),
        TEST(what_cannot_go_stays),
        TEST(without_storage_nodes_memory_stays),
        TEST(a_storage_node_that_is_needed_stays),
        TEST(what_lacks_a_memory_node_holds_up_nobody),
        TEST(what_came_to_nothing_is_not_repeated),
        TEST(it_always_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
