/* SPDX-License-Identifier: Apache-2.0 */
/* Shows the simulated disk's faults: errors that are asked for, slow and reordered requests, rot, a node without power;
 * that it wakes its node; and that the same seed is the same run. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/disk_scope.h"

enum { BLOCK = FP_DISK_ALIGN, COUNT = 64 };

typedef struct volume {
    fp_sim_world *world;
    fp_disk_medium *medium;
    fp_disk *disk;
    fp_disk_file *file;
    uint8_t *memory;
    fp_disk_req reqs[COUNT];
    unsigned order[COUNT + 1], done, failed;
} volume;

static void open_volume(volume *v, uint64_t seed, const fp_disk_sim_config *config)
{
    static const fp_disk_sim_config plain = {0};
    memset(v, 0, sizeof *v);
    assert_int_equal(fp_sim_world_open(seed, &(fp_sim_config){0}, &v->world), 0);
    assert_int_equal(fp_disk_medium_open(v->world, &plain, &v->medium), 0);
    assert_int_equal(fp_disk_open("sim", &(fp_disk_options){.medium = v->medium}, &v->disk), 0);
    v->file = disk_open_file(v->disk, "data", FP_DISK_CREATE);
    v->memory = disk_buffer(BLOCK, 1);
    if (config)
        fp_disk_sim_configure(v->medium, config);
}

static void close_volume(volume *v)
{
    fp_disk_close(v->disk);
    fp_disk_medium_close(v->medium);
    fp_sim_world_close(v->world);
    free(v->memory);
}

static void note(fp_disk_req *req)
{
    volume *v = req->user;
    v->order[v->done++] = (unsigned)(req - v->reqs);
    v->failed += req->status != 0;
}

static void submit_writes(volume *v)
{
    for (unsigned i = 0; i < COUNT; i++) {
        v->reqs[i] = (fp_disk_req){.kind = FP_DISK_WRITE,
                                   .file = v->file,
                                   .offset = (uint64_t)i * BLOCK,
                                   .buffer = v->memory,
                                   .len = BLOCK,
                                   .done = note,
                                   .user = v};
        fp_disk_submit(v->disk, &v->reqs[i]);
    }
}

static void write_all(volume *v)
{
    submit_writes(v);
    disk_wait(v->disk, &v->done, COUNT);
}

static void crash(void *medium) { fp_disk_sim_crash(medium); }

static uint64_t run(uint64_t seed)
{
    fp_disk_sim_config config = {.slow_per_million = 100000, .slow_ns = 1000000};
    config.eio_per_million[FP_DISK_WRITE] = 200000;
    volume v;
    open_volume(&v, seed, &config);
    fp_sim_at(v.world, fp_sim_now_ns(v.world) + 150000, crash, v.medium);
    submit_writes(&v);
    while (fp_disk_poll(v.disk, 1))
        ;
    fp_disk_close(v.disk);
    assert_int_equal(v.done, COUNT);
    assert_int_equal(fp_disk_open("sim", &(fp_disk_options){.medium = v.medium}, &v.disk), 0);
    fp_disk_req list = {.kind = FP_DISK_LIST};
    assert_int_equal(disk_do(v.disk, &list), 0);
    uint64_t hash = fp_sim_trace_hash(v.world) ^ list.size;
    free(list.names);
    close_volume(&v);
    return hash;
}

static void the_same_seed_is_the_same_run(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        assert_true(run(seed) == run(seed));
        assert_true(run(seed) != run(seed + 1));
    }
}

static void requests_overtake_each_other(void **state)
{
    (void)state;
    volume v;
    open_volume(&v, 1, NULL);
    write_all(&v);
    unsigned overtaken = 0;
    for (unsigned i = 1; i < COUNT; i++)
        overtaken += v.order[i] < v.order[i - 1];
    assert_true(overtaken > COUNT / 4);
    close_volume(&v);
}

static void some_are_slow_or_fail(void **state)
{
    (void)state;
    fp_disk_sim_config config = {.slow_per_million = 200000, .slow_ns = 1000000000};
    config.eio_per_million[FP_DISK_WRITE] = 200000;
    volume v;
    open_volume(&v, 1, &config);
    submit_writes(&v);
    while (fp_disk_poll(v.disk, 1))
        ;
    assert_true(v.done > COUNT / 2 && v.done < COUNT);
    disk_wait(v.disk, &v.done, COUNT);
    assert_true(fp_sim_now_ns(v.world) > 900000000);
    assert_true(v.failed > 2 && v.failed < COUNT / 2);
    close_volume(&v);
}

static void nothing(fp_disk_req *req) { (void)req; }

/* The n-th request of each kind, once; what it was about is in the message. */
static void each_kind_fails_when_told_to(void **state)
{
    (void)state;
    static const char *const words[FP_DISK_KINDS] = {"open of 'data'",
                                                     "close of 'data'",
                                                     "read of 'data'",
                                                     "write of 'data'",
                                                     "allocate of",
                                                     "truncate of",
                                                     "size of 'data'",
                                                     "sync of 'data'",
                                                     "rename of",
                                                     "unlink of",
                                                     "sync of the directory",
                                                     "list: ",
                                                     "nothing",
                                                     "work"};
    for (int kind = 0; kind < FP_DISK_KINDS; kind++) {
        volume v;
        open_volume(&v, 1, NULL);
        fp_disk_file *file = v.file;
        assert_int_equal(disk_write(v.disk, file, 0, v.memory, BLOCK), 0);
        fp_disk_req req = {.kind = (enum fp_disk_kind)kind,
                           .mode = FP_DISK_EXISTING,
                           .buffer = v.memory,
                           .work = nothing,
                           .len = BLOCK,
                           .size = BLOCK};
        bool by_name = kind == FP_DISK_OPEN || kind == FP_DISK_RENAME || kind == FP_DISK_UNLINK;
        req.name = by_name ? "data" : NULL;
        req.new_name = "other";
        req.file = by_name || kind == FP_DISK_SYNC_DIR ? NULL : file;
        fp_disk_sim_fail(v.medium, req.kind, 1, EIO);
        assert_int_equal(disk_do(v.disk, &req), FARPOOL_E_IO);
        assert_int_equal(req.sys_errno, EIO);
        if (!strstr(farpool_errmsg(), words[kind]))
            fail_msg("'%s' is not in: %s", words[kind], farpool_errmsg());
        if (kind != FP_DISK_CLOSE) { /* once only */
            assert_int_equal(disk_do(v.disk, &req), 0);
            free(req.names);
        }
        close_volume(&v);
    }
}

/* D4: sector by sector the old or the new. */
static void a_failed_write_is_torn(void **state)
{
    (void)state;
    uint8_t *read = disk_buffer(BLOCK, 0), *new = disk_buffer(BLOCK, 2);
    unsigned torn = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        volume v;
        open_volume(&v, seed, NULL);
        assert_int_equal(disk_write(v.disk, v.file, 0, v.memory, BLOCK), 0);
        fp_disk_sim_fail(v.medium, FP_DISK_WRITE, 1, EIO);
        assert_int_equal(disk_write(v.disk, v.file, 0, new, BLOCK), FARPOOL_E_IO);
        assert_int_equal(disk_read(v.disk, v.file, 0, read, BLOCK), 0);
        for (size_t at = 0; at < BLOCK; at += 512) {
            assert_true(read[at] == 1 || read[at] == 2);
            assert_memory_equal(read + at, read + at + 1, 511);
            torn += read[at] != read[0];
        }
        close_volume(&v);
    }
    assert_true(torn > 20);
    free(read);
    free(new);
}

/* D2 */
static void a_read_sees_parts_of_a_write_under_way(void **state)
{
    (void)state;
    uint8_t *read = disk_buffer(BLOCK, 0), *new = disk_buffer(BLOCK, 2);
    unsigned old = 0, torn = 0, whole = 0;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        volume v;
        open_volume(&v, seed, NULL);
        assert_int_equal(disk_write(v.disk, v.file, 0, v.memory, BLOCK), 0);
        for (int i = 0; i < 2; i++) {
            v.reqs[i] = (fp_disk_req){.kind = i ? FP_DISK_READ : FP_DISK_WRITE,
                                      .file = v.file,
                                      .buffer = i ? read : new,
                                      .len = BLOCK,
                                      .done = note,
                                      .user = &v};
            fp_disk_submit(v.disk, &v.reqs[i]);
        }
        disk_wait(v.disk, &v.done, 2);
        unsigned twos = 0;
        for (size_t at = 0; at < BLOCK; at += 512)
            twos += read[at] == 2;
        old += !twos;
        torn += twos && twos < BLOCK / 512;
        whole += twos == BLOCK / 512;
        assert_int_equal(disk_read(v.disk, v.file, 0, read, BLOCK), 0);
        assert_memory_equal(read, new, BLOCK);
        close_volume(&v);
    }
    assert_true(old && torn && whole);
    free(read);
    free(new);
}

static void rot_is_there_before_and_after_a_crash(void **state)
{
    (void)state;
    volume v;
    open_volume(&v, 1, NULL);
    uint8_t *read = disk_buffer(BLOCK, 0);
    fp_disk_req sync_dir = {.kind = FP_DISK_SYNC_DIR};
    assert_int_equal(disk_write(v.disk, v.file, 0, v.memory, BLOCK), 0);
    assert_int_equal(disk_write(v.disk, v.file, BLOCK, v.memory, BLOCK), 0);
    assert_int_equal(disk_file_op(v.disk, FP_DISK_SYNC, v.file, 0), 0);
    assert_int_equal(disk_do(v.disk, &sync_dir), 0);
    assert_true(fp_disk_sim_flip(v.medium, "data", 10, 3));
    assert_true(fp_disk_sim_zero(v.medium, "data", 100, 50));
    assert_true(fp_disk_sim_cut(v.medium, "data", BLOCK));
    assert_false(fp_disk_sim_flip(v.medium, "data", BLOCK, 0));
    assert_false(fp_disk_sim_zero(v.medium, "nobody", 0, 1));
    assert_false(fp_disk_sim_cut(v.medium, "data", BLOCK + 1));
    for (int crashed = 0; crashed < 2; crashed++) {
        assert_int_equal(disk_read(v.disk, v.file, 0, read, BLOCK), 0);
        for (size_t i = 0; i < BLOCK; i++)
            assert_int_equal(read[i], i == 10 ? 9 : i >= 100 && i < 150 ? 0 : 1);
        assert_int_equal(disk_read(v.disk, v.file, BLOCK, read, BLOCK), FARPOOL_E_CORRUPT);
        fp_disk_sim_crash(v.medium);
        fp_disk_close(v.disk);
        assert_int_equal(fp_disk_open("sim", &(fp_disk_options){.medium = v.medium}, &v.disk), 0);
        v.file = disk_open_file(v.disk, "data", FP_DISK_EXISTING);
    }
    free(read);
    close_volume(&v);
}

static void a_node_without_power_learns_nothing(void **state)
{
    (void)state;
    volume v;
    open_volume(&v, 1, NULL);
    submit_writes(&v);
    fp_disk_sim_crash(v.medium);
    assert_int_equal(fp_disk_poll(v.disk, 1000), 0);
    fp_disk_req late = {.kind = FP_DISK_SYNC_DIR, .done = note, .user = &v};
    fp_disk_submit(v.disk, &late);
    assert_int_equal(fp_disk_poll(v.disk, 1000), 0);
    assert_int_equal(v.done, 0);
    fp_disk_close(v.disk);
    assert_int_equal(v.done, COUNT + 1);
    assert_int_equal(v.failed, COUNT + 1);
    v.disk = NULL;
    close_volume(&v);
}

static void drive(void *arg)
{
    volume *v = arg;
    while (fp_disk_poll(v->disk, 0))
        ;
}

/* As a storage node does while a client waits for its answer. */
static void completions_wake_the_node(void **state)
{
    (void)state;
    volume v;
    open_volume(&v, 1, NULL);
    fp_net *net;
    fp_poller *poller;
    fp_net_event event;
    assert_int_equal(fp_net_open("sim://client", &(fp_net_options){.world = v.world}, &net), 0);
    assert_int_equal(fp_net_poller_open(net, &poller), 0);
    fp_disk_sim_set_driver(v.disk, drive, &v);
    submit_writes(&v);
    assert_int_equal(v.done, 0);
    assert_int_equal(fp_net_poll(poller, &event, 1, 100), 0);
    assert_int_equal(v.done, COUNT);
    fp_net_poller_close(poller);
    fp_net_close(net);
    close_volume(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_seed_is_the_same_run),
        cmocka_unit_test(requests_overtake_each_other),
        cmocka_unit_test(some_are_slow_or_fail),
        cmocka_unit_test(each_kind_fails_when_told_to),
        cmocka_unit_test(a_failed_write_is_torn),
        cmocka_unit_test(a_read_sees_parts_of_a_write_under_way),
        cmocka_unit_test(rot_is_there_before_and_after_a_crash),
        cmocka_unit_test(a_node_without_power_learns_nothing),
        cmocka_unit_test(completions_wake_the_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
