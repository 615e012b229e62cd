/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a memory node answers to whom: grants, fencing by epoch, extents that come back
 * zeroed and under new keys, and what it does with clients that break the rules. Over shm and
 * tcp, or $FARPOOL_TEST_SCHEME, in this process. */
#include "common/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/error.h"
#include "memnode/epochs.h"
#include "tests/lib/nodeclient.h"

/* ---- tests ----------------------------------------------------------------------------------- */

static void hello_comes_first(void **state)
{
    (void)state;
    client c;
    connect_silently(&c);
    assert_int_equal(ask(&c, (fp_msg){.type = FP_MSG_USAGE}), FARPOOL_E_PROTO);
    assert_non_null(strstr(c.msg.text, "HELLO"));
    assert_int_equal(ask(&c, (fp_msg){.type = FP_MSG_HELLO, .text = "me"}), FP_MSG_HELLO_OK);
    assert_string_equal(c.msg.text, "testnode");
    assert_int_not_equal(c.msg.boot_id, 0);
    assert_int_equal(ask(&c, (fp_msg){.type = FP_MSG_USAGE}), FP_MSG_USAGE_OK);
    assert_int_equal(c.msg.usage.bytes_total, NODE_EXTENTS * EXTENT_BYTES);
    assert_int_equal(c.msg.usage.bytes_granted, 0);
    assert_int_equal(c.msg.usage.connections, 1);
    assert_int_not_equal(c.msg.usage.cpu_ns, 0);
    assert_int_equal(c.msg.usage.data_bytes, 0);
    disconnect(&c);
}

static void grant_is_whole_extents_and_usable(void **state)
{
    (void)state;
    client c;
    connect_client(&c);
    assert_int_equal(grant(&c, 7, 3, EXTENT_BYTES + 1), FP_MSG_EXTENTS);
    assert_int_equal(c.msg.partition, 7);
    assert_int_equal(c.msg.epoch, 3);
    assert_int_equal(c.msg.total, 2);
    assert_int_equal(c.msg.count, 2);
    assert_int_equal(c.msg.extent_bytes, EXTENT_BYTES);
    fp_rkey extent = c.msg.extents[1];
    assert_int_equal(extent.len, EXTENT_BYTES);
    assert_true(c.msg.extents[0].key != extent.key);
    memset(memory.addr, 1, 4096);
    assert_int_equal(transfer(&c, FP_NET_READ, extent, EXTENT_BYTES - 4096), 0);
    assert_true(local_is(0));
    memset(memory.addr, 2, 4096);
    assert_int_equal(transfer(&c, FP_NET_WRITE, extent, EXTENT_BYTES - 4096), 0);
    memset(memory.addr, 1, 4096);
    assert_int_equal(transfer(&c, FP_NET_READ, extent, EXTENT_BYTES - 4096), 0);
    assert_true(local_is(2));
    assert_int_equal(ask(&c, (fp_msg){.type = FP_MSG_USAGE}), FP_MSG_USAGE_OK);
    assert_int_equal(c.msg.usage.bytes_granted, 2 * EXTENT_BYTES);
    assert_int_equal(c.msg.usage.partitions, 1);
    /* One byte beyond the extent is refused, and ends the connection. */
    assert_int_equal(transfer(&c, FP_NET_READ, extent, EXTENT_BYTES - 4095), FARPOOL_E_ACCESS);
    disconnect(&c);
}

static void refusals_say_why(void **state)
{
    (void)state;
    client c;
    connect_client(&c);
    assert_int_equal(grant(&c, 0, 1, 1), FARPOOL_E_INVAL);
    assert_int_equal(grant(&c, 1, 1, 0), FARPOOL_E_INVAL);
    assert_int_equal(grant(&c, 1, 1, NODE_EXTENTS * EXTENT_BYTES + 1), FARPOOL_E_NOSPACE);
    assert_non_null(strstr(c.msg.text, "32.8 MiB of 32.8 MiB are free"));
    assert_int_equal(grant(&c, 1, 1, UINT64_MAX), FARPOOL_E_NOSPACE);
    assert_int_equal(grant(&c, 1, 1, (NODE_EXTENTS - 1) * EXTENT_BYTES), FP_MSG_EXTENTS);
    assert_int_equal(grant(&c, 2, 1, 2 * EXTENT_BYTES), FARPOOL_E_NOSPACE);
    assert_non_null(strstr(c.msg.text, "4.1 MiB of 32.8 MiB are free"));
    assert_int_equal(attach(&c, 2, 1, 0), FARPOOL_E_NOTFOUND);
    assert_int_equal(release(&c, 2, 1), FARPOOL_E_NOTFOUND);
    assert_int_equal(attach(&c, 1, 1, NODE_EXTENTS - 1), FARPOOL_E_INVAL);
    assert_int_equal(release(&c, 1, 2), FARPOOL_E_FENCED);
    assert_int_equal(attach(&c, 1, 1, 3), FP_MSG_EXTENTS); /* the rest of the list */
    assert_int_equal(c.msg.first, 3);
    assert_int_equal(c.msg.count, NODE_EXTENTS - 4);
    assert_int_equal(c.msg.total, NODE_EXTENTS - 1);
    disconnect(&c);
}

static void higher_epoch_cuts_off_and_keeps_the_slab(void **state)
{
    (void)state;
    client old[2], other, new;
    connect_client(&old[0]);
    connect_client(&old[1]);
    connect_client(&other);
    connect_client(&new);
    assert_int_equal(grant(&other, 6, 1, 1), FP_MSG_EXTENTS);
    assert_int_equal(grant(&old[0], 5, 10, 1), FP_MSG_EXTENTS);
    fp_rkey extent = old[0].msg.extents[0];
    assert_int_equal(attach(&old[1], 5, 10, 0), FP_MSG_EXTENTS);
    assert_int_equal(old[1].msg.extents[0].key, extent.key);
    memset(memory.addr, 9, 4096);
    assert_int_equal(transfer(&old[1], FP_NET_WRITE, extent, 64), 0);

    assert_int_equal(grant(&new, 5, 10, 1), FARPOOL_E_FENCED);
    assert_int_equal(grant(&new, 5, 9, 1), FARPOOL_E_FENCED);
    assert_int_equal(attach(&new, 5, 11, 0), FARPOOL_E_FENCED);
    /* Not enough: then nothing has changed either. */
    assert_int_equal(grant(&new, 5, 11, UINT64_MAX), FARPOOL_E_NOSPACE);
    assert_int_equal(transfer(&old[0], FP_NET_READ, extent, 64), 0);

    assert_int_equal(grant(&new, 5, 11, 1), FP_MSG_EXTENTS);
    assert_true(new.msg.extents[0].key != extent.key);
    /* Who was cut off can do nothing more, from before the answer on. */
    memset(memory.addr, 8, 4096);
    assert_int_not_equal(transfer(&old[0], FP_NET_WRITE, extent, 64), 0);
    assert_int_not_equal(transfer(&old[1], FP_NET_WRITE, extent, 64), 0);
    wait_for(&old[0], NULL);
    wait_for(&old[1], NULL);
    assert_int_equal(old[0].closed, FARPOOL_E_NODE);
    assert_int_equal(transfer(&new, FP_NET_READ, new.msg.extents[0], 64), 0);
    assert_true(local_is(9));
    assert_int_equal(attach(&other, 6, 1, 0), FP_MSG_EXTENTS); /* other partitions notice nothing */
    assert_int_equal(attach(&other, 5, 10, 0), FARPOOL_E_FENCED);
    /* Who asks is not cut off, even if it used the slab under the old epoch. */
    assert_int_equal(grant(&new, 5, 12, 3 * EXTENT_BYTES), FP_MSG_EXTENTS);
    assert_int_equal(new.msg.total, 3);
    assert_int_equal(transfer(&new, FP_NET_READ, new.msg.extents[0], 64), 0);
    assert_true(local_is(9));
    assert_int_equal(grant(&new, 5, 13, 1), FP_MSG_EXTENTS); /* and shrink again */
    assert_int_equal(new.msg.total, 1);
    disconnect(&old[0]);
    disconnect(&old[1]);
    disconnect(&other);
    disconnect(&new);
}

/* An owner who goes on under a higher epoch says under which one it holds what there is. */
static void who_is_no_owner_any_more_does_not_go_on(void **state)
{
    (void)state;
    client owner, other;
    connect_client(&owner);
    connect_client(&other);
    fp_msg on = {.type = FP_MSG_GRANT, .partition = 5, .epoch = 12, .bytes = 1, .held = 10};
    assert_int_equal(ask(&owner, on), FARPOOL_E_NOTFOUND); /* the node has forgotten it */
    assert_int_equal(grant(&owner, 5, 10, 1), FP_MSG_EXTENTS);
    fp_msg ring = {
        .type = FP_MSG_GRANT, .use = FP_USE_RING, .partition = 5, .epoch = 10, .bytes = 1};
    assert_int_equal(ask(&owner, ring), FP_MSG_EXTENTS);
    assert_int_equal(ask(&owner, on), FP_MSG_EXTENTS);
    ring.epoch = 12;
    ring.held = 10; /* which went with the slab */
    assert_int_equal(ask(&owner, ring), FP_MSG_EXTENTS);
    assert_int_equal(grant(&other, 5, 13, 1), FP_MSG_EXTENTS);
    disconnect(&owner); /* which was cut off, and comes again */
    connect_client(&owner);
    on.epoch = 14;
    on.held = 12;
    assert_int_equal(ask(&owner, on), FARPOOL_E_FENCED);
    assert_int_equal(attach(&other, 5, 13, 0), FP_MSG_EXTENTS); /* nothing has changed */
    disconnect(&owner);
    disconnect(&other);
}

/* The keys of an epoch die with it: neither from a new connection nor from one that knows the partition
 * under its new epoch do they reach the slab, in either direction. */
/* The log ring and the slab of a partition are under one epoch: whoever takes one has taken both. */
static void a_ring_goes_with_its_partition(void **state)
{
    (void)state;
    client pages, log, new;
    connect_client(&pages);
    connect_client(&log);
    connect_client(&new);
    fp_msg ring = {
        .type = FP_MSG_GRANT, .use = FP_USE_RING, .partition = 5, .epoch = 10, .bytes = 1};
    assert_int_equal(grant(&pages, 5, 10, 1), FP_MSG_EXTENTS);
    assert_int_equal(ask(&log, ring), FP_MSG_EXTENTS);
    assert_int_equal(log.msg.use, FP_USE_RING);
    fp_rkey extent = log.msg.extents[0];
    assert_true(extent.key != pages.msg.extents[0].key);
    assert_int_equal(ask(&new, (fp_msg){.type = FP_MSG_USAGE}), FP_MSG_USAGE_OK);
    assert_true(new.msg.usage.partitions == 1 && new.msg.usage.bytes_granted == 2 * EXTENT_BYTES);
    memset(memory.addr, 7, 4096);
    assert_int_equal(transfer(&log, FP_NET_WRITE, extent, 0), 0);
    assert_int_equal(ask(&new, ring), FARPOOL_E_FENCED);

    assert_int_equal(grant(&new, 5, 11, 1), FP_MSG_EXTENTS);
    assert_int_not_equal(transfer(&log, FP_NET_WRITE, extent, 0), 0);
    assert_int_equal(ask(&new, ring), FARPOOL_E_FENCED);
    ring.epoch = 11;
    ring.type = FP_MSG_ATTACH;
    assert_int_equal(ask(&new, ring), FP_MSG_EXTENTS);
    ring.type = FP_MSG_GRANT;
    assert_int_equal(ask(&new, ring), FP_MSG_EXTENTS);
    assert_true(new.msg.extents[0].key != extent.key);
    memset(memory.addr, 0, 4096);
    assert_int_equal(transfer(&new, FP_NET_READ, new.msg.extents[0], 0), 0);
    assert_true(local_is(7));
    assert_int_equal(ask(&new, ring), FARPOOL_E_FENCED); /* it has been granted under this epoch */
    ring.type = FP_MSG_RELEASE;
    assert_int_equal(ask(&new, ring), FP_MSG_RELEASE_OK);
    assert_int_equal(ask(&new, ring), FARPOOL_E_NOTFOUND);
    assert_int_equal(release(&new, 5, 11), FP_MSG_RELEASE_OK);
    disconnect(&pages);
    disconnect(&log);
    disconnect(&new);
}

static void keys_die_with_their_epoch(void **state)
{
    (void)state;
    client old, new, late;
    connect_client(&old);
    connect_client(&new);
    assert_int_equal(grant(&old, 5, 10, 2 * EXTENT_BYTES), FP_MSG_EXTENTS);
    fp_rkey keys[2];
    memcpy(keys, old.msg.extents, sizeof keys);
    memset(memory.addr, 9, 4096);
    for (int i = 0; i < 2; i++)
        assert_int_equal(transfer(&old, FP_NET_WRITE, keys[i], 64), 0);
    assert_int_equal(grant(&new, 5, 11, 2 * EXTENT_BYTES), FP_MSG_EXTENTS);
    fp_rkey renewed[2];
    memcpy(renewed, new.msg.extents, sizeof renewed);
    for (unsigned i = 0; i < 8; i++) {
        connect_client(&late);
        if (i & 4) /* even with access to the slab as it is now */
            assert_int_equal(attach(&late, 5, 11, 0), FP_MSG_EXTENTS);
        memset(memory.addr, 1, 4096);
        int rc = transfer(&late, i & 1 ? FP_NET_READ : FP_NET_WRITE, keys[i >> 1 & 1], 64);
        if (!scheme_is("verbs") || rc != FARPOOL_E_NODE)
            assert_int_equal(rc, FARPOOL_E_ACCESS);
        assert_true(local_is(1));
        disconnect(&late);
    }
    for (int i = 0; i < 2; i++) {
        assert_true(renewed[i].key != keys[0].key && renewed[i].key != keys[1].key);
        assert_int_equal(transfer(&new, FP_NET_READ, renewed[i], 64), 0);
        assert_true(local_is(9));
    }
    wait_for(&old, NULL);
    disconnect(&old);
    disconnect(&new);
}

static void an_old_owner_does_not_come_back_after_a_release(void **state)
{
    (void)state;
    client c;
    connect_client(&c);
    for (uint64_t partition = 1; partition <= 100; partition++) {
        assert_int_equal(grant(&c, partition, 5, 1), FP_MSG_EXTENTS);
        assert_int_equal(release(&c, partition, 5), FP_MSG_RELEASE_OK);
    }
    for (uint64_t partition = 1; partition <= 100; partition++) {
        assert_int_equal(grant(&c, partition, 4, 1), FARPOOL_E_FENCED);
        assert_non_null(strstr(c.msg.text, "released under epoch 5"));
        assert_int_equal(attach(&c, partition, 4, 0), FARPOOL_E_NOTFOUND);
    }
    assert_int_equal(grant(&c, 1, 5, 1), FP_MSG_EXTENTS); /* its last owner may, it is empty */
    assert_int_equal(release(&c, 1, 5), FP_MSG_RELEASE_OK);
    assert_int_equal(grant(&c, 1, 7, 1), FP_MSG_EXTENTS);
    assert_int_equal(release(&c, 1, 7), FP_MSG_RELEASE_OK);
    assert_int_equal(grant(&c, 1, 6, 1), FARPOOL_E_FENCED);
    disconnect(&c);
}

static void old_epochs_are_remembered_within_bounds(void **state)
{
    (void)state;
    fp_epochs epochs = {0};
    for (uint64_t partition = 1; partition <= FP_EPOCHS_MAX + 10; partition++)
        fp_epochs_note(&epochs, partition, partition + 3);
    assert_int_equal(epochs.count, FP_EPOCHS_MAX);
    for (uint64_t partition = 1; partition <= 10; partition++)
        assert_int_equal(fp_epochs_get(&epochs, partition), 0);
    for (uint64_t partition = 11; partition <= FP_EPOCHS_MAX + 10; partition += 97)
        assert_int_equal(fp_epochs_get(&epochs, partition), partition + 3);
    fp_epochs_note(&epochs, 50, 2); /* lower than it was */
    assert_int_equal(fp_epochs_get(&epochs, 50), 53);
    fp_epochs_free(&epochs);
}

static void released_memory_is_zeroed_and_its_keys_are_dead(void **state)
{
    (void)state;
    client a;
    connect_client(&a);
    assert_int_equal(grant(&a, 1, 1, NODE_EXTENTS * EXTENT_BYTES), FP_MSG_EXTENTS);
    fp_rkey keys[NODE_EXTENTS];
    memcpy(keys, a.msg.extents, sizeof keys);
    memset(memory.addr, 7, 4096);
    for (unsigned i = 0; i < NODE_EXTENTS; i++) {
        assert_int_equal(transfer(&a, FP_NET_WRITE, keys[i], 0), 0);
        assert_int_equal(transfer(&a, FP_NET_WRITE, keys[i], EXTENT_BYTES - 4096), 0);
    }
    /* Both at once and for everything, so that the grant has to wait for the clearing. */
    fp_msg msgs[2] = {
        {.type = FP_MSG_RELEASE, .partition = 1, .epoch = 1},
        {.type = FP_MSG_GRANT, .partition = 2, .epoch = 1, .bytes = NODE_EXTENTS * EXTENT_BYTES}};
    send_msg(&a, &msgs[0]);
    send_msg(&a, &msgs[1]);
    do {
        a.have_answer = false;
        wait_for(&a, &a.have_answer);
    } while (a.msg.type == FP_MSG_RELEASE_OK);
    assert_int_equal(a.msg.type, FP_MSG_EXTENTS);
    assert_int_equal(a.msg.partition, 2);
    assert_int_equal(a.msg.total, NODE_EXTENTS);
    for (unsigned i = 0; i < NODE_EXTENTS; i++) {
        for (unsigned k = 0; k < NODE_EXTENTS; k++)
            assert_true(a.msg.extents[i].key != keys[k].key);
        memset(memory.addr, 1, 4096);
        assert_int_equal(transfer(&a, FP_NET_READ, a.msg.extents[i], 0), 0);
        assert_true(local_is(0));
        assert_int_equal(transfer(&a, FP_NET_READ, a.msg.extents[i], EXTENT_BYTES - 4096), 0);
        assert_true(local_is(0));
    }
    assert_int_equal(transfer(&a, FP_NET_READ, keys[0], 0), FARPOOL_E_ACCESS);
    disconnect(&a);
}

static void a_grant_outlives_its_connections(void **state)
{
    (void)state;
    client c;
    connect_client(&c);
    assert_int_equal(grant(&c, 4, 1, 1), FP_MSG_EXTENTS);
    memset(memory.addr, 5, 4096);
    assert_int_equal(transfer(&c, FP_NET_WRITE, c.msg.extents[0], 0), 0);
    disconnect(&c);
    connect_client(&c);
    assert_int_equal(attach(&c, 4, 1, 0), FP_MSG_EXTENTS);
    assert_int_equal(transfer(&c, FP_NET_READ, c.msg.extents[0], 0), 0);
    assert_true(local_is(5));
    disconnect(&c);
}

static void rule_breakers_harm_nobody(void **state)
{
    (void)state;
    client bad, good;
    connect_client(&good);
    connect_silently(&bad);
    /* Garbage is answered with an error... */
    bad.have_answer = false;
    send_bytes(&bad, "no message at all", 17);
    wait_for(&bad, &bad.have_answer);
    assert_int_equal(bad.msg.type, FP_MSG_ERROR);
    assert_int_equal(bad.msg.code, FARPOOL_E_PROTO);
    assert_int_equal(ask(&bad, (fp_msg){.type = FP_MSG_HELLO, .text = "bad"}), FP_MSG_HELLO_OK);
    /* ... and an answer to nothing with being cut off. */
    fp_msg msg = {.type = FP_MSG_RELEASE_OK};
    send_msg(&bad, &msg);
    wait_for(&bad, NULL);
    assert_int_equal(ask(&good, (fp_msg){.type = FP_MSG_USAGE}), FP_MSG_USAGE_OK);
    assert_int_equal(good.msg.usage.connections, 1);
    disconnect(&bad);
    disconnect(&good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hello_comes_first, setup, teardown),
        cmocka_unit_test_setup_teardown(grant_is_whole_extents_and_usable, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals_say_why, setup, teardown),
        cmocka_unit_test_setup_teardown(higher_epoch_cuts_off_and_keeps_the_slab, setup, teardown),
        cmocka_unit_test_setup_teardown(a_ring_goes_with_its_partition, setup, teardown),
        cmocka_unit_test_setup_teardown(who_is_no_owner_any_more_does_not_go_on, setup, teardown),
        cmocka_unit_test_setup_teardown(keys_die_with_their_epoch, setup, teardown),
        cmocka_unit_test_setup_teardown(an_old_owner_does_not_come_back_after_a_release, setup,
                                        teardown),
        cmocka_unit_test(old_epochs_are_remembered_within_bounds),
        cmocka_unit_test_setup_teardown(released_memory_is_zeroed_and_its_keys_are_dead, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_grant_outlives_its_connections, setup, teardown),
        cmocka_unit_test_setup_teardown(rule_breakers_harm_nobody, setup, teardown),
    };
    scheme = getenv("FARPOOL_TEST_SCHEME");
    if (scheme)
        return cmocka_run_group_tests_name(scheme, tests, NULL, NULL);
    scheme = "shm";
    int failed = cmocka_run_group_tests_name("memnode over shm", tests, NULL, NULL);
    scheme = "tcp";
    return failed + cmocka_run_group_tests_name("memnode over tcp", tests, NULL, NULL);
}
