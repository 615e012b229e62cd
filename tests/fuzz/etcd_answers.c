/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that the etcd backend takes damaged and random answers and lines of watches: it refuses them or finds keys,
 * values and revisions that can be; a watch is never given an old revision.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/etcd_inside.h"
#include "tests/lib/fuzz.h"

enum { FROM = 4 };

const unsigned fuzz_runs = 30000;

static uint64_t newest;
static bool over;

static void check_kv(const fp_meta_kv *kv)
{
    size_t len = strlen(kv->key);
    FUZZ_CHECK(len && len <= FP_META_KEY_MAX);
    FUZZ_CHECK(!kv->value || !((const char *)kv->value)[kv->len]);
}

static void on_events(fp_meta_watch *watch, const fp_meta_kv *changes, size_t count)
{
    (void)watch;
    FUZZ_CHECK(count);
    for (size_t i = 0; i < count; i++) {
        check_kv(&changes[i]);
        FUZZ_CHECK(changes[i].revision > newest);
    }
    for (size_t i = 0; i < count; i++)
        newest = changes[i].revision > newest ? changes[i].revision : newest;
}

static void on_end(fp_meta_watch *watch)
{
    FUZZ_CHECK(watch->status < 0);
    over = true;
}

static void feed_request(etcd_meta *meta, enum fp_meta_kind kind, const char *text, size_t len)
{
    static const fp_meta_op ops[] = {{.kind = FP_META_GET, .key = "k"},
                                     {.kind = FP_META_PUT, .key = "l", .value = "x", .len = 1},
                                     {.kind = FP_META_GET, .key = "m"}};
    char message[200];
    int code = 0;
    fp_meta_req req = {.kind = kind, .ops = ops, .op_count = 3, .key = ""};
    etcd_op op = {.req = &req, .lease = 5};
    etcd_message(text, len, message);
    FUZZ_CHECK(strlen(message) < sizeof message);
    if (etcd_judge(meta, "member", 500, message, &code) == ETCD_DONE)
        FUZZ_CHECK(code < 0);
    if (etcd_read_answer(meta, &op, text, len)) {
        FUZZ_CHECK(!req.kvs);
        return;
    }
    FUZZ_CHECK(kind != FP_META_TXN || req.kv_count == (req.succeeded ? 2 : 0));
    for (size_t i = 0; i < req.kv_count; i++)
        check_kv(&req.kvs[i]);
    free(req.kvs);
}

static void feed_watch(etcd_meta *meta, const char *text, size_t len)
{
    fp_meta_watch watch = {.prefix = "", .from = FROM, .events = on_events, .ended = on_end};
    newest = FROM - 1;
    over = false;
    fp_meta_watch_start(&meta->base, &watch);
    (void)etcd_watch_step(meta); /* begins, but nothing goes on until it is polled */
    bool goes_on = true;
    for (const char *at = text, *end; at < text + len && goes_on && !over; at = end + 1) {
        end = memchr(at, '\n', (size_t)(text + len - at));
        if (!end)
            break;
        goes_on = etcd_watch_line(meta, watch.own.state, at, (size_t)(end - at));
    }
    FUZZ_CHECK(!over || !goes_on);
    fp_meta_watch_stop(&watch);
}

void fuzz_one(const uint8_t *data, size_t size)
{
    fp_meta *base;
    if (!size)
        return;
    FUZZ_CHECK(!fp_meta_open("etcd://127.0.0.1:1/p", NULL, &base));
    etcd_meta *meta = (etcd_meta *)base;
    unsigned kind = data[0] % (FP_META_KINDS + 2);
    char *text = malloc(size); /* of that size, so that whoever reads on is found */
    memcpy(text, data + 1, size - 1);
    if (kind < FP_META_KINDS)
        feed_request(meta, (enum fp_meta_kind)kind, text, size - 1);
    else
        feed_watch(meta, text, size - 1);
    free(text);
    fp_meta_close(base);
}

#define HEADER "\"header\":{\"cluster_id\":\"7\",\"revision\":\"12\"}"
#define KV(n) "{\"key\":\"cC9r\",\"value\":\"eA==\",\"lease\":\"9\",\"mod_revision\":\"" #n "\"}"

size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity)
{
    static const char *const answers[] = {
        "{" HEADER ",\"succeeded\":true,\"responses\":[{\"response_range\":{\"kvs\":[" KV(
            3) "]}},"
               "{\"response_put\":{}},{\"response_range\":{}}]}",
        "{" HEADER ",\"more\":true,\"kvs\":[" KV(3) "," KV(5) "]}",
        "{\"result\":{" HEADER ",\"ID\":\"5\",\"TTL\":\"10\"}}",
        "{" HEADER ",\"ID\":\"5\",\"TTL\":\"-1\"}",
        "{\"error\":\"etcdserver: mvcc: database space exceeded\",\"message\":\"etcdserver: x\"}",
    };
    static const char *const lines[] = {
        "{\"result\":{" HEADER ",\"created\":true}}\n",
        "{\"result\":{" HEADER ",\"events\":[{\"kv\":" KV(3) "},{\"kv\":" KV(4) "}]}}\n",
        "{\"result\":{" HEADER
        ",\"fragment\":true,\"events\":[{\"type\":\"DELETE\",\"kv\":" KV(5) "}]}}\n",
        "{\"result\":{" HEADER ",\"events\":[{\"kv\":" KV(5) "},{\"kv\":" KV(6) "}]}}\n",
        "{\"result\":{" HEADER ",\"canceled\":true,\"compact_revision\":\"9\"}}\n",
        "{\"error\":{\"message\":\"etcdserver: no leader\",\"grpc_code\":14}}\n",
    };
    uint64_t r = test_random(random);
    data[0] = (uint8_t)(r % (FP_META_KINDS + 2));
    char *text = (char *)data + 1;
    *text = 0;
    if (data[0] < FP_META_KINDS) {
        strcpy(text, answers[(r >> 8) % 5]);
    } else {
        for (unsigned i = 0; i < 4; i++)
            strcat(text, lines[(r >> (8 + 8 * i)) % (i < 3 ? 4 : 6)]);
    }
    return fuzz_damage(random, data, strlen(text) + 1, capacity);
}
