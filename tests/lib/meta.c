/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/meta.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "coordinator/sim.h"
#include "tests/lib/etcd.h"

static enum backend { SQLITE, ETCD, SIM } backend;
static test_etcd etcd;
static fp_sim_world *world;
static fp_meta_service *service;
static char uri[512];
static unsigned number, open_count;

bool meta_is_sim(void) { return backend == SIM; }
uint64_t meta_now_ms(void)
{
    return (backend == SIM ? fp_sim_now_ns(world) : fp_now_ns()) / 1000000;
}

static int on_etcd(int (*group)(const char *name), const char *name, unsigned count)
{
    backend = ETCD;
    etcd = (test_etcd){.count = count};
    test_etcd_start(&etcd);
    int failures = group(name);
    test_etcd_stop(&etcd);
    return failures;
}

int meta_for_each(int (*group)(const char *name))
{
    const char *seed = getenv("SEED");
    const fp_sim_config config = {.late = true};
    alarm(900); /* a test that hangs fails */
    backend = SQLITE;
    int failures = group("sqlite");
    backend = SIM;
    test_must(fp_sim_world_open(seed ? strtoull(seed, NULL, 10) : 1, &config, &world), "world");
    int failed = group("sim");
    if (!failed) /* a test that has failed leaves its store open */
        fp_sim_world_close(world);
    failures += failed;
    if (test_etcd_there()) {
        failures += on_etcd(group, "etcd, one member", 1);
        failures += on_etcd(group, "etcd, three members", 3);
    }
    return failures;
}

static fp_meta *open_store(const fp_meta_options *options)
{
    fp_meta_options filled = {0};
    fp_meta *meta;
    if (options)
        filled = *options;
    filled.service = service;
    if (!filled.timeout_ms)
        filled.timeout_ms = 20000; /* the first ones wait until etcd is there */
    test_must(fp_meta_open(uri, &filled, &meta), uri);
    open_count++;
    return meta;
}

fp_meta *meta_begin(const fp_meta_options *options)
{
    const char *build = getenv("FARPOOL_BUILD");
    char prefix[40];
    number++;
    if (backend == SQLITE) {
        snprintf(uri, sizeof uri, "sqlite:%s/metastore-%d-%u.db", build ? build : "build",
                 (int)getpid(), number);
    } else if (backend == SIM) {
        snprintf(uri, sizeof uri, "sim:%u", number);
        test_must(fp_meta_service_open(world, NULL, &service), "service");
    } else {
        snprintf(prefix, sizeof prefix, "/test-%u", number);
        snprintf(uri, sizeof uri, "%s", test_etcd_uri(&etcd, prefix));
    }
    return open_store(options);
}

fp_meta *meta_another(void) { return open_store(NULL); }

void meta_end(fp_meta *meta)
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    fp_meta_close(meta);
    if (--open_count)
        return;
    for (int i = 0; backend == SQLITE && i < 3; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s%s", uri + strlen("sqlite:"), ends[i]);
        unlink(path); /* the log is gone already when it was closed well */
    }
    if (backend == SIM) {
        fp_meta_service_close(service);
        service = NULL;
    }
}

/* ---- requests -------------------------------------------------------------------------------- */

static void count_one(fp_meta_req *req) { ++*(unsigned *)req->user; }

void meta_wait(fp_meta *meta, const unsigned *counter, unsigned wanted)
{
    uint64_t end = fp_now_ns() + META_WAIT_MS * UINT64_C(1000000);
    while (*counter < wanted) {
        REQUIRE(fp_now_ns() < end);
        REQUIRE(fp_meta_poll(meta, 100) >= 0);
    }
}

void meta_wait_ms(fp_meta *meta, unsigned ms)
{
    uint64_t end = meta_now_ms() + ms;
    while (meta_now_ms() < end)
        REQUIRE(fp_meta_poll(meta, (int)(end - meta_now_ms())) >= 0);
}

int meta_do(fp_meta *meta, fp_meta_req *req)
{
    unsigned done = 0;
    req->done = count_one;
    req->user = &done;
    fp_meta_submit(meta, req);
    meta_wait(meta, &done, 1);
    REQUIRE(done == 1);
    return req->status;
}

uint64_t meta_put(fp_meta *meta, const char *key, const char *value)
{
    const fp_meta_op op = {.kind = FP_META_PUT, .key = key, .value = value, .len = strlen(value)};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = &op, .op_count = 1};
    test_must(meta_do(meta, &req), key);
    return req.revision;
}

uint64_t meta_delete(fp_meta *meta, const char *key)
{
    const fp_meta_op op = {.kind = FP_META_DELETE, .key = key};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = &op, .op_count = 1};
    test_must(meta_do(meta, &req), key);
    return req.revision;
}

const char *meta_get(fp_meta *meta, const char *key, uint64_t *revision)
{
    static char value[256];
    const fp_meta_op op = {.kind = FP_META_GET, .key = key};
    fp_meta_req req = {.kind = FP_META_TXN, .ops = &op, .op_count = 1};
    test_must(meta_do(meta, &req), key);
    REQUIRE(req.succeeded && req.kv_count == 1);
    snprintf(value, sizeof value, "%s", req.kvs[0].value ? (const char *)req.kvs[0].value : "");
    if (revision)
        *revision = req.kvs[0].revision;
    free(req.kvs);
    return value;
}

uint64_t meta_revision(fp_meta *meta)
{
    fp_meta_req req = {.kind = FP_META_RANGE, .key = "", .limit = 1};
    test_must(meta_do(meta, &req), "range");
    free(req.kvs);
    return req.revision;
}

int meta_compact(fp_meta *meta, uint64_t revision)
{
    fp_meta_req req = {.kind = FP_META_COMPACT, .at = revision};
    return meta_do(meta, &req);
}

int meta_increment(fp_meta *meta, const char *key)
{
    char value[24];
    const fp_meta_op get = {.kind = FP_META_GET, .key = key};
    fp_meta_req read = {.kind = FP_META_TXN, .ops = &get, .op_count = 1};
    int rc = meta_do(meta, &read);
    if (rc)
        return rc;
    uint64_t revision = read.kvs[0].revision;
    snprintf(value, sizeof value, "%lld",
             1 + (revision ? strtoll(read.kvs[0].value, NULL, 10) : 0));
    free(read.kvs);
    const fp_meta_compare same = {
        .kind = revision ? FP_META_REVISION_IS : FP_META_ABSENT, .key = key, .revision = revision};
    const fp_meta_op put = {.kind = FP_META_PUT, .key = key, .value = value, .len = strlen(value)};
    fp_meta_req write = {
        .kind = FP_META_TXN, .compares = &same, .compare_count = 1, .ops = &put, .op_count = 1};
    rc = meta_do(meta, &write);
    return rc ? rc : write.succeeded ? 0 : FARPOOL_E_EXISTS;
}

/* ---- watches --------------------------------------------------------------------------------- */

static void log_changes(fp_meta_watch *watch, const fp_meta_kv *changes, size_t count)
{
    meta_log *log = watch->user;
    log->calls++;
    for (size_t i = 0; i < count; i++) {
        REQUIRE(log->count < META_LOG_MAX);
        snprintf(log->changes[log->count].key, 40, "%s", changes[i].key);
        log->changes[log->count].deleted = !changes[i].value;
        log->changes[log->count].revision = changes[i].revision;
        snprintf(log->changes[log->count].value, 40, "%.39s",
                 changes[i].value ? (const char *)changes[i].value : "");
        log->count++;
    }
    if (log->stop_at && log->count >= log->stop_at)
        fp_meta_watch_stop(watch);
}

static void log_end(fp_meta_watch *watch) { ((meta_log *)watch->user)->ended++; }

void meta_log_start(fp_meta *meta, meta_log *log, const char *prefix, uint64_t from)
{
    log->count = log->calls = log->ended = 0;
    log->watch = (fp_meta_watch){
        .prefix = prefix, .from = from, .events = log_changes, .ended = log_end, .user = log};
    fp_meta_watch_start(meta, &log->watch);
}
