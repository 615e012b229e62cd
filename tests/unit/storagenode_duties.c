/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what a storage node of a cluster does when coordinators say so: it deletes a partition, unless a higher epoch is
 * promised; a crash at any moment leaves the partition among those it tells of, or nothing of it on the volume; it gets
 * what it lacks from peers that come while it runs; and serves those alone who are named. In simulated worlds; SEED=n begins with another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/error.h"
#include "common/log.h"
#include "common/net/sim.h"
#include "tests/lib/pages_client.h"
#include "tests/lib/require.h"
#include "tests/lib/secret.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum { P = 7, OTHER = 8, CONVERT_BYTES = 64 << 10, FRAMES = 300, WAIT_MS = 30000 };
#define STEP_NS 40000ull
#define CLIENT "logclient" /* a logclient's name */

static struct {
    fp_sim_world *world;
    sim_storage storage[2];
    page_log owner[2]; /* of P and OTHER */
    fp_net *net;       /* somebody who waits */
    fp_poller *poller;
} bed;

/* ---- duties --------------------------------------------------------------------------------- */

/* Who owns a partition, under epochs up to 9, and who has its rings. */
static json_t *access_to(json_int_t partition, const char *owner, const char *ring)
{
    return json_pack("{s:I, s:i, s:i, s:s, s:[s]}", "partition", partition, "epoch", 9, "least", 3,
                     "owner", owner, "rings", ring);
}

static void tell(const sim_storage *s, json_t *duties)
{
    if (!json_object_get(duties, "partitions"))
        json_object_set_new(
            duties, "partitions",
            json_pack("[o, o]", access_to(P, CLIENT, CLIENT), access_to(OTHER, CLIENT, CLIENT)));
    if (!json_object_get(duties, "nodes"))
        json_object_set_new(duties, "nodes", json_pack("[s, s]", "storage0", "storage1"));
    fp_storagenode_duties(s->node, duties);
    json_decref(duties);
}

/* ---- the bed --------------------------------------------------------------------------------- */

static void open_bed(uint64_t seed, unsigned storages)
{
    fp_sim_config config = {0};
    fp_net_options options = {.node = "idle"};
    memset(&bed, 0, sizeof bed);
    test_must(fp_sim_world_open(seed, &config, &bed.world), "a world");
    options.world = bed.world;
    test_must(fp_net_open("sim://idle", &options, &bed.net), "a transport");
    test_must(fp_net_poller_open(bed.net, &bed.poller), "a poller");
    for (unsigned i = 0; i < storages; i++) {
        sim_storage *s = &bed.storage[i];
        sim_storage_open_converting(s, bed.world, i, CONVERT_BYTES);
        s->in_cluster = true;
        sim_storage_restart(s);
        tell(s, json_object());
    }
    for (unsigned i = 0; i < 2; i++)
        page_log_open(&bed.owner[i], P + i, FP_REDO_LSN_FIRST, seed);
}

static void close_bed(void)
{
    for (unsigned i = 0; i < 2; i++) {
        page_log_close(&bed.owner[i]);
        if (bed.storage[i].world)
            sim_storage_close(&bed.storage[i]);
    }
    fp_net_poller_close(bed.poller);
    fp_net_close(bed.net);
    fp_sim_world_close(bed.world);
}

static void pass(void)
{
    fp_net_event event;
    for (unsigned i = 0; i < 2; i++)
        if (bed.storage[i].world)
            sim_storage_step(&bed.storage[i]);
    (void)fp_net_poll(bed.poller, &event, 1, 1);
}

#define UNTIL(condition)                                                                           \
    do {                                                                                           \
        uint64_t end = fp_sim_now_ns(bed.world) + WAIT_MS * 1000000ull;                            \
        for (; !(condition); pass())                                                               \
            REQUIRE(fp_sim_now_ns(bed.world) < end);                                               \
    } while (0)

static void connect_to(logclient *c, const sim_storage *s)
{
    fp_net_options options = {.world = bed.world, .node = "client"};
    test_must(logclient_open(c, s->uri, &options), "connecting");
}

/* Log, of which some is in layers. */
static void give(const sim_storage *s, unsigned i)
{
    logclient c;
    connect_to(&c, s);
    page_log_frames(&bed.owner[i], 1, FRAMES);
    test_pages_give(&c, &bed.owner[i], FP_REDO_LSN_FIRST);
    logclient_close(&c);
}

static void tell_drop(const sim_storage *s, int epoch)
{
    tell(s, json_pack("{s:[{s:i,s:i}]}", "drop", "partition", P, "epoch", epoch));
}

/* What it tells of a partition: a new reference, or NULL. */
static json_t *told_of(const sim_storage *s, json_int_t partition)
{
    size_t i;
    const json_t *entry;
    json_t *found = NULL, *actual = fp_storagenode_actual(s->node);
    json_array_foreach(json_object_get(actual, "partitions"), i, entry)
    {
        if (json_integer_value(json_object_get(entry, "id")) == partition)
            found = json_deep_copy(entry);
    }
    json_decref(actual);
    return found;
}

static bool is_there(const sim_storage *s, json_int_t partition)
{
    json_t *told = told_of(s, partition);
    json_decref(told);
    return told;
}

static bool is_whole(const sim_storage *s, json_int_t partition)
{
    json_t *told = told_of(s, partition);
    bool whole = json_is_true(json_object_get(told, "whole"));
    json_decref(told);
    return whole;
}

static void listed(fp_disk_req *req) { *(bool *)req->user = true; }

/* How many files the volume has, with names in which this stands; the node does not run. */
static unsigned count_files(const sim_storage *s, const char *part)
{
    bool done = false;
    unsigned count = 0;
    fp_disk *disk;
    fp_disk_req list = {.kind = FP_DISK_LIST, .done = listed, .user = &done};
    fp_disk_options options = {.medium = s->medium};
    test_must(fp_disk_open(s->uri, &options, &disk), "a volume");
    fp_disk_submit(disk, &list);
    while (!done)
        REQUIRE(fp_disk_poll(disk, 1000) >= 0);
    for (const char *name = list.names; *name; name += strlen(name) + 1)
        count += strstr(name, part) != NULL;
    free(list.names);
    fp_disk_close(disk);
    return count;
}

static void stop(sim_storage *s)
{
    s->serves = false;
    fp_storagenode_close(s->node);
    s->node = NULL;
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void a_partition_is_deleted_and_others_are_not(void **state)
{
    (void)state;
    logclient c;
    sim_storage *s = &bed.storage[0];
    open_bed(test_seed(1), 1);
    give(s, 0);
    give(s, 1);
    UNTIL(is_whole(s, P) && is_whole(s, OTHER));
    connect_to(&c, s);
    fp_msg fence = {.type = FP_MSG_WAL_FENCE, .partition = P, .epoch = 3, .lsn = UINT64_MAX / 2};
    assert_int_equal(logclient_ask(&c, fence), FP_MSG_WAL_STATE);
    tell_drop(s, 2);
    for (unsigned i = 0; i < 100; i++)
        pass();
    assert_true(is_whole(s, P)); /* a higher epoch is promised */
    tell_drop(s, 3);
    UNTIL(!is_there(s, P));
    assert_int_equal(logclient_ask(&c, (fp_msg){.type = FP_MSG_WAL_GET, .partition = P}),
                     FARPOOL_E_NOTFOUND);
    assert_int_equal(test_pages_compare(&c, &bed.owner[1], bed.owner[1].log.end), 0);
    /* It can be here again, as if it had never been. */
    test_pages_give(&c, &bed.owner[0], FP_REDO_LSN_FIRST);
    assert_int_equal(test_pages_compare(&c, &bed.owner[0], bed.owner[0].log.end), 0);
    tell_drop(s, 9);
    tell_drop(s, 9);
    UNTIL(!is_there(s, P));
    logclient_close(&c);
    stop(s);
    assert_int_equal(count_files(s, "0000000000000007"), 0);
    assert_true(count_files(s, "0000000000000008"));
    sim_storage_restart(s);
    UNTIL(is_whole(s, OTHER));
    close_bed();
}

/* What was asked meanwhile is answered. */
static void requests_end(void **state)
{
    (void)state;
    logclient c;
    sim_storage *s = &bed.storage[0];
    open_bed(test_seed(2), 1);
    give(s, 0);
    UNTIL(is_whole(s, P));
    connect_to(&c, s);
    fp_msg asked[] = {{.type = FP_MSG_WAL_GET, .partition = P},
                      {.type = FP_MSG_PAGE_GET, .partition = P, .pid = page_log_pid(0)},
                      {.type = FP_MSG_LOG_GET, .partition = P, .lsn = bed.owner[0].log.end - 8},
                      {.type = FP_MSG_MANIFEST_GET, .partition = P},
                      {.type = FP_MSG_WAL_OPEN,
                       .partition = P,
                       .epoch = 2,
                       .bytes = 4096,
                       .lsn = FP_REDO_LSN_FIRST}};
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 5; i++)
            logclient_send(&c, &asked[i]);
        tell_drop(s, 2);
        pass();
    }
    assert_true(logclient_wait(&c, c.sent) || c.closed); /* it has taken pages away */
    logclient_close(&c);
    UNTIL(!is_there(s, P));
    close_bed();
}

/* Whether the power failed before it was done. */
static bool crash_while_deleting(uint64_t seed, uint64_t after_ns)
{
    sim_storage *s = &bed.storage[0];
    open_bed(seed, 1);
    give(s, 0);
    give(s, 1);
    UNTIL(is_whole(s, P) && is_whole(s, OTHER));
    tell_drop(s, 1);
    fp_sim_at(bed.world, fp_sim_now_ns(bed.world) + after_ns, sim_storage_crash, s);
    UNTIL(s->lost);
    bool early = is_there(s, P); /* as it was then */
    sim_storage_restart(s);
    REQUIRE(early || !is_there(s, P)); /* what was told is so */
    if (is_there(s, P))
        tell_drop(s, 1);
    UNTIL(!is_there(s, P));
    UNTIL(is_whole(s, OTHER));
    stop(s);
    REQUIRE(!count_files(s, "0000000000000007"));
    unsigned files = count_files(s, "");
    sim_storage_restart(s); /* nothing is left that would be cleaned up now */
    UNTIL(is_whole(s, OTHER));
    REQUIRE(!is_there(s, P));
    stop(s);
    REQUIRE(count_files(s, "") <= files);
    sim_storage_restart(s);
    close_bed();
    return early;
}

static void a_crash_leaves_it_or_nothing(void **state)
{
    (void)state;
    uint64_t seed = test_seed(3), after_ns = 0;
    unsigned rounds = 0;
    while (crash_while_deleting(seed + rounds, after_ns)) {
        rounds++;
        after_ns += STEP_NS;
    }
    print_message("%u crashes\n", rounds);
    assert_true(rounds > 10);
}

static void peers_come_and_go(void **state)
{
    (void)state;
    logclient c;
    sim_storage *a = &bed.storage[0], *b = &bed.storage[1];
    open_bed(test_seed(4), 2);
    give(a, 0);
    connect_to(&c, b);
    uint64_t from = bed.owner[0].log.end;
    page_log_frames(&bed.owner[0], 1, 5);
    test_pages_give(&c, &bed.owner[0], from); /* its ring has no more */
    for (unsigned i = 0; i < 100; i++)
        pass();
    assert_true(is_there(b, P) && !is_whole(b, P));
    tell(b, json_pack("{s:[s,s]}", "peers", "sim://nobody", "nonsense"));
    for (unsigned i = 0; i < 100; i++)
        pass();
    assert_false(is_whole(b, P));
    tell(b, json_pack("{s:[s,s]}", "peers", "sim://nobody", a->uri));
    UNTIL(is_whole(b, P));
    assert_int_equal(test_pages_compare(&c, &bed.owner[0], bed.owner[0].log.end), 0);
    tell(b, json_pack("{s:[]}", "peers"));
    for (unsigned i = 0; i < 100; i++)
        pass();
    assert_true(is_whole(b, P));
    logclient_close(&c);
    close_bed();
}

static int ask(logclient *c, enum fp_msg_type type, uint64_t epoch)
{
    return logclient_ask(c, (fp_msg){.type = type,
                                     .partition = P,
                                     .epoch = epoch,
                                     .pid = page_log_pid(0),
                                     .lsn = type == FP_MSG_PAGE_GET ? 0 : FP_REDO_LSN_FIRST});
}

/* It, or that it is none. */
static bool gets_page(logclient *c, uint64_t epoch)
{
    int rc = ask(c, FP_MSG_PAGE_GET, epoch);
    return rc == FP_MSG_PAGE || rc == FARPOOL_E_NOTFOUND;
}

static void name(const sim_storage *s, const char *owner, const char *ring)
{
    tell(s, json_pack("{s:[o]}", "partitions", access_to(P, owner, ring)));
}

/* Whatever he asks for, under an epoch that is known. */
static void is_refused(logclient *c, bool reads)
{
    static const enum fp_msg_type types[] = {
        FP_MSG_WAL_GET,  FP_MSG_LOG_GET,   FP_MSG_PAGE_GET, FP_MSG_MANIFEST_GET, FP_MSG_FILE_GET,
        FP_MSG_WAL_OPEN, FP_MSG_WAL_FENCE, FP_MSG_WAL_JOIN, FP_MSG_WAL_APPEND};
    for (unsigned i = reads ? 5 : 0; i < sizeof types / sizeof types[0]; i++)
        assert_int_equal(ask(c, types[i], 9), FARPOOL_E_REFUSED);
}

static void only_those_named_are_served(void **state)
{
    (void)state;
    logclient c;
    sim_storage *s = &bed.storage[0];
    open_bed(test_seed(5), 1);
    give(s, 0);
    UNTIL(is_whole(s, P));
    connect_to(&c, s);
    name(s, "c0", "m0");
    is_refused(&c, false);
    assert_int_equal(ask(&c, FP_MSG_PAGE_GET, 2), FARPOOL_E_FENCED); /* an owner before */
    /* Its owner does not append. */
    name(s, CLIENT, "m0");
    assert_int_equal(ask(&c, FP_MSG_WAL_GET, 0), FP_MSG_WAL_STATE);
    assert_int_equal(ask(&c, FP_MSG_LOG_GET, 0), FP_MSG_LOG);
    assert_true(gets_page(&c, 3));
    assert_int_equal(ask(&c, FP_MSG_WAL_FENCE, 2), FARPOOL_E_FENCED);
    assert_int_equal(ask(&c, FP_MSG_WAL_FENCE, 10), FARPOOL_E_RETRY);
    assert_int_equal(ask(&c, FP_MSG_WAL_FENCE, 3), FP_MSG_WAL_STATE);
    assert_int_equal(ask(&c, FP_MSG_WAL_OPEN, 3), FARPOOL_E_REFUSED);
    assert_int_equal(ask(&c, FP_MSG_MANIFEST_GET, 0), FARPOOL_E_REFUSED);
    /* A memory node that has its log reads no pages. */
    name(s, "c0", CLIENT);
    assert_int_equal(ask(&c, FP_MSG_WAL_OPEN, 4), FP_MSG_WAL_STATE);
    assert_int_equal(ask(&c, FP_MSG_WAL_OPEN, 10), FARPOOL_E_RETRY);
    assert_int_equal(ask(&c, FP_MSG_PAGE_GET, 9), FARPOOL_E_REFUSED);
    /* Another storage node only reads. */
    tell(s, json_pack("{s:[o], s:[s]}", "partitions", access_to(P, "c0", "m0"), "nodes", CLIENT));
    assert_int_equal(ask(&c, FP_MSG_WAL_GET, 0), FP_MSG_WAL_STATE);
    assert_true(gets_page(&c, 0));
    is_refused(&c, true);
    /* Who may be about to be named comes again. */
    tell(s, json_pack("{s:[]}", "partitions"));
    assert_int_equal(ask(&c, FP_MSG_WAL_GET, 0), FARPOOL_E_RETRY);
    logclient_close(&c);
    sim_storage_crash(s);
    sim_storage_restart(s);
    connect_to(&c, s);
    assert_int_equal(ask(&c, FP_MSG_WAL_GET, 0), FARPOOL_E_RETRY);
    name(s, CLIENT, CLIENT);
    assert_int_equal(ask(&c, FP_MSG_WAL_GET, 0), FP_MSG_WAL_STATE);
    logclient_close(&c);
    close_bed();
}

/* 0, or what connecting gives. */
static int connect_as(logclient *c, const sim_storage *s, const fp_auth *auth)
{
    fp_net_options options = {.world = bed.world, .node = "client", .auth = auth};
    return logclient_open(c, s->uri, &options);
}

static void a_key_of_the_cluster_is_not_enough(void **state)
{
    (void)state;
    logclient c;
    sim_storage *s = &bed.storage[0];
    fp_auth *secret = test_secret(1, "storage0"), *other = test_secret(2, CLIENT);
    fp_auth *stranger = test_key(secret, "stranger"), *owner = test_key(secret, CLIENT);
    open_bed(test_seed(6), 1);
    give(s, 0);
    UNTIL(is_whole(s, P));
    sim_storage_crash(s);
    s->auth = secret;
    sim_storage_restart(s);
    name(s, CLIENT, "m0");
    assert_int_equal(connect_as(&c, s, NULL), FARPOOL_E_REFUSED);
    assert_int_equal(connect_as(&c, s, other), FARPOOL_E_REFUSED);
    test_must(connect_as(&c, s, stranger), "connecting with a stranger's key");
    is_refused(&c, false);
    logclient_close(&c);
    test_must(connect_as(&c, s, owner), "connecting with the owner's key");
    assert_true(gets_page(&c, 3));
    name(s, "c0", "m0"); /* not any more */
    is_refused(&c, false);
    logclient_close(&c);
    close_bed();
    fp_auth_close(stranger);
    fp_auth_close(owner);
    fp_auth_close(other);
    fp_auth_close(secret);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_partition_is_deleted_and_others_are_not),
        cmocka_unit_test(requests_end),
        cmocka_unit_test(a_crash_leaves_it_or_nothing),
        cmocka_unit_test(peers_come_and_go),
        cmocka_unit_test(only_those_named_are_served),
        cmocka_unit_test(a_key_of_the_cluster_is_not_enough),
    };
    fp_log_set_level(FP_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
