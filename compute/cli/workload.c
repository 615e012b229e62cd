/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every phase runs on some threads. An update in the mixed phase writes the record's own value and, behind it,
 * the number of times that the record was updated. So each read can be compared with the input at any time,
 * and a write that got lost is seen as well: a record is updated by one thread only (its index modulo the
 * number of threads), which knows the number; so does everybody once that thread has ended.
 *
 * Values that are compared while their pages are still where they were written would prove nothing about
 * memory nodes. So after loading and after the mixed load send_out() fills the whole pool with fixed pages
 * of no content, before which every other page has to leave.
 */
#include "compute/cli/workload.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

enum { SCAN_RECORDS = 100, STAMP_BYTES = sizeof(uint64_t) };

/* Zipfian numbers 0 to n-1: Gray et al., "Quickly generating billion-record synthetic databases", SIGMOD
 * 1994, section 3. */
typedef struct zipf {
    double n, theta, alpha, zetan, eta;
} zipf;

typedef struct worker {
    const cli_target *target;
    enum cli_phase phase;
    unsigned index;
    pthread_t thread;
    uint64_t random;
    const zipf *skew;
    uint64_t end_ns;
    char *buffer;
    size_t buffer_bytes;
    _Atomic uint64_t ops; /* written by the worker, read for progress */
    _Atomic bool done;
    _Atomic bool *stop; /* one for all: another thread met an error */
    int rc;
    char message[512];
} worker;

static const char *const names[CLI_PHASES] = {
    "load",        "verify", "lookups, uniform", "lookups, Zipfian",
    "range scans", "mixed",  "verify again"};

static void zipf_init(zipf *z, uint64_t n, double theta)
{
    double zeta2 = 1 + pow(0.5, theta);
    z->n = (double)n;
    z->theta = theta;
    z->zetan = 0;
    for (uint64_t i = 1; i <= n; i++)
        z->zetan += pow(1.0 / (double)i, theta);
    z->alpha = 1 / (1 - theta);
    z->eta = (1 - pow(2.0 / z->n, 1 - theta)) / (1 - zeta2 / z->zetan);
}

static uint64_t zipf_next(const zipf *z, double u)
{
    double uz = u * z->zetan;
    if (uz < 1)
        return 0;
    if (uz < 1 + pow(0.5, z->theta))
        return 1;
    uint64_t i = (uint64_t)(z->n * pow(z->eta * u - z->eta + 1, z->alpha));
    return i < (uint64_t)z->n ? i : (uint64_t)z->n - 1;
}

static uint64_t next_random(worker *w) /* xorshift64*: Vigna, 2016 */
{
    uint64_t x = w->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    w->random = x;
    return x * 0x2545F4914F6CDD1Dull;
}

static size_t pick(worker *w)
{
    size_t count = w->target->input->count;
    uint64_t r = next_random(w);
    if (!w->skew)
        return r % count;
    uint64_t rank = zipf_next(w->skew, (double)(r >> 11) / 9007199254740992.0);
    return rank * 0x9E3779B97F4A7C15ull % count; /* popular records lie apart */
}

static int differs(const cli_record *record)
{
    return fp_error(FARPOOL_E_CORRUPT, "record '%.*s' (input line %llu) came back changed",
                    (int)(record->key.len < 80 ? record->key.len : 80),
                    (const char *)record->key.data, (unsigned long long)record->line);
}

/* Is this the value of record i? exact: with so many updates as the record has had; else with any number. */
static bool is_value(const cli_target *target, size_t i, farpool_slice value, bool exact)
{
    const farpool_slice *wanted = &target->input->records[i].value;
    uint64_t stamp = 0;
    if (value.len == wanted->len + STAMP_BYTES)
        memcpy(&stamp, (const char *)value.data + wanted->len, sizeof stamp);
    else if (value.len != wanted->len)
        return false;
    if (!stamp && value.len != wanted->len)
        return false;
    return (!exact || stamp == target->updates[i]) &&
           !memcmp(value.data, wanted->data, wanted->len);
}

static int lookup(worker *w, size_t i)
{
    const cli_record *record = &w->target->input->records[i];
    size_t len;
    int rc = farpool_btree_lookup(w->target->tree, record->key, w->buffer, w->buffer_bytes, &len);
    if (rc == FARPOOL_E_NOTFOUND)
        return fp_error(FARPOOL_E_NOTFOUND, "record '%.*s' (input line %llu) is gone",
                        (int)(record->key.len < 80 ? record->key.len : 80),
                        (const char *)record->key.data, (unsigned long long)record->line);
    if (rc)
        return rc;
    bool exact = w->phase != CLI_MIXED || i % w->target->threads == w->index;
    return is_value(w->target, i, (farpool_slice){w->buffer, len}, exact) ? 0 : differs(record);
}

typedef struct scan_state {
    const cli_target *target;
    size_t at;
    unsigned left;
    int rc;
} scan_state;

static int scan_step(void *arg, farpool_slice key, farpool_slice value)
{
    scan_state *s = arg;
    if (s->at == s->target->input->count) {
        s->rc = fp_error(FARPOOL_E_CORRUPT, "a range scan found a record behind the last");
        return 1;
    }
    const cli_record *record = &s->target->input->records[s->at];
    if (key.len != record->key.len || memcmp(key.data, record->key.data, key.len) != 0 ||
        !is_value(s->target, s->at, value, true)) {
        s->rc = differs(record);
        return 1;
    }
    s->at++;
    return --s->left == 0;
}

static int scan(worker *w)
{
    const cli_input *input = w->target->input;
    scan_state s = {w->target, pick(w), SCAN_RECORDS, 0};
    int rc = farpool_btree_scan(w->target->tree, input->records[s.at].key, 0, scan_step, &s);
    if (!rc && !s.rc && s.left && s.at != input->count)
        return fp_error(FARPOOL_E_CORRUPT, "a range scan ended %zu records early",
                        input->count - s.at);
    return rc ? rc : s.rc;
}

static int mixed(worker *w)
{
    const cli_target *target = w->target;
    size_t i = pick(w);
    if (next_random(w) % 100 < target->read_percent)
        return lookup(w, i);
    i = i - i % target->threads + w->index; /* a near one that is ours to update */
    if (i >= target->input->count)
        i = w->index;
    if (i >= target->input->count) /* fewer records than threads */
        return 0;
    const cli_record *record = &target->input->records[i];
    size_t len = record->value.len;
    if (len + STAMP_BYTES > FARPOOL_VALUE_MAX)
        return lookup(w, i);
    uint64_t stamp = target->updates[i] + 1;
    memcpy(w->buffer, record->value.data, len);
    memcpy(w->buffer + len, &stamp, sizeof stamp);
    int rc =
        farpool_btree_put(target->tree, record->key, (farpool_slice){w->buffer, len + STAMP_BYTES});
    if (!rc)
        target->updates[i] = stamp;
    return rc;
}

static bool goes_over_all(enum cli_phase phase)
{
    return phase == CLI_LOAD || phase == CLI_VERIFY || phase == CLI_AGAIN;
}

size_t cli_scattering_step(size_t count)
{
    for (size_t step = 7919;; step += 2) {
        size_t a = step, b = count;
        while (b) {
            size_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1)
            return step;
    }
}

/* The phases that go over every record once: worker i takes each threads-th, in a scattered order. */
static int each_record(worker *w)
{
    const cli_input *input = w->target->input;
    size_t step = cli_scattering_step(input->count);
    int rc = 0;
    for (size_t n = w->index; n < input->count && !rc; n += w->target->threads) {
        size_t i = (size_t)((unsigned __int128)n * step % input->count);
        const cli_record *record = &input->records[i];
        rc = w->phase == CLI_LOAD
                 ? farpool_btree_insert(w->target->tree, record->key, record->value)
                 : lookup(w, i);
        atomic_fetch_add_explicit(&w->ops, 1, memory_order_relaxed);
        if (atomic_load_explicit(w->stop, memory_order_relaxed))
            break;
    }
    return rc;
}

static int timed(worker *w)
{
    int rc = 0;
    while (!rc && fp_now_ns() < w->end_ns && !atomic_load_explicit(w->stop, memory_order_relaxed)) {
        for (unsigned n = 0; n < 16 && !rc; n++) {
            rc = w->phase == CLI_SCAN    ? scan(w)
                 : w->phase == CLI_MIXED ? mixed(w)
                                         : lookup(w, pick(w));
            atomic_fetch_add_explicit(&w->ops, 1, memory_order_relaxed);
        }
    }
    return rc;
}

static void *work(void *arg)
{
    worker *w = arg;
    w->rc = goes_over_all(w->phase) ? each_record(w) : timed(w);
    if (w->rc) {
        snprintf(w->message, sizeof w->message, "%s", farpool_errmsg());
        atomic_store(w->stop, true);
    }
    atomic_store(&w->done, true);
    return NULL;
}

/* Makes every page leave the pool. *kept: some stayed, because the slab has no room for a pool of pages. */
static int send_out(const cli_target *target, bool *kept)
{
    farpool_stats stats;
    farpool_stats_get(target->pool, &stats);
    farpool_pid *pids = malloc(stats.frames * sizeof *pids);
    if (!pids)
        return fp_error(FARPOOL_E_NOMEM, "sending pages out: no memory for %llu page numbers",
                        (unsigned long long)stats.frames);
    uint64_t n = 0;
    int rc = 0;
    while (n < stats.frames && !rc) {
        void *page;
        rc = farpool_page_alloc(target->partition, 0, &pids[n], &page);
        n += !rc;
    }
    *kept = rc == FARPOOL_E_NOSPACE;
    while (n > 0)
        farpool_page_free(target->partition, pids[--n]);
    free(pids);
    return rc == FARPOOL_E_POOL_FULL || *kept ? 0 : rc;
}

/* One line, rewritten in place on a terminal; elsewhere one every two seconds. */
static void progress(const cli_target *target, enum cli_phase phase, worker *workers,
                     uint64_t start)
{
    bool tty = isatty(STDERR_FILENO);
    uint64_t shown = start;
    for (;;) {
        bool done = true;
        uint64_t ops = 0;
        for (unsigned i = 0; i < target->threads; i++) {
            done = done && atomic_load(&workers[i].done);
            ops += atomic_load_explicit(&workers[i].ops, memory_order_relaxed);
        }
        uint64_t now = fp_now_ns();
        if (!target->quiet && (done || now - shown > (tty ? 200000000u : 2000000000u))) {
            double seconds = (double)(now - start) / 1e9;
            fprintf(stderr, "%s  %-18s %10llu operations, %9.0f a second%s", tty ? "\r" : "",
                    names[phase], (unsigned long long)ops, (double)ops / seconds,
                    tty && !done ? "" : "\n");
            shown = now;
        }
        if (done)
            return;
        struct timespec nap = {0, 20000000}; /* between looks at counters; nothing waits for it */
        nanosleep(&nap, NULL);
    }
}

static void subtract(farpool_stats *after, const farpool_stats *before)
{
    after->hits -= before->hits;
    after->misses -= before->misses;
    after->prefetched -= before->prefetched;
    after->evictions -= before->evictions;
    after->written_back -= before->written_back;
    after->bytes_read -= before->bytes_read;
    after->bytes_written -= before->bytes_written;
    after->fault_errors -= before->fault_errors;
    after->restarts -= before->restarts;
    after->latch_waits -= before->latch_waits;
    after->fault.count -= before->fault.count;
    after->fault.sum_ns -= before->fault.sum_ns;
    for (unsigned b = 0; b < FARPOOL_LATENCY_BUCKETS; b++)
        after->fault.buckets[b] -= before->fault.buckets[b];
}

static int start_workers(const cli_target *target, enum cli_phase phase, const zipf *skew,
                         worker *workers, _Atomic bool *stop)
{
    size_t largest = 1;
    for (size_t i = 0; i < target->input->count; i++)
        if (target->input->records[i].value.len > largest)
            largest = target->input->records[i].value.len;
    largest += STAMP_BYTES;
    uint64_t end = fp_now_ns() + (uint64_t)(target->seconds * 1e9);
    for (unsigned i = 0; i < target->threads; i++) {
        worker *w = &workers[i];
        *w = (worker){.target = target,
                      .phase = phase,
                      .index = i,
                      .skew = skew,
                      .end_ns = end,
                      .stop = stop};
        w->random = 0x9E3779B97F4A7C15ull * (i + 1) + phase;
        w->buffer_bytes = largest;
        w->buffer = malloc(largest);
        int error = w->buffer ? pthread_create(&w->thread, NULL, work, w) : ENOMEM;
        if (!error)
            continue;
        free(w->buffer);
        atomic_store(stop, true);
        while (i-- > 0) {
            pthread_join(workers[i].thread, NULL);
            free(workers[i].buffer);
        }
        return fp_error(FARPOOL_E_NOMEM, "starting thread: %s", strerror(error));
    }
    return 0;
}

int cli_phase_run(const cli_target *target, enum cli_phase phase, cli_result *result)
{
    worker *workers = calloc(target->threads, sizeof *workers);
    if (!workers)
        return fp_error(FARPOOL_E_NOMEM, "no memory for %u threads", target->threads);
    zipf skew;
    _Atomic bool stop = false;
    bool skewed = (phase == CLI_ZIPF || phase == CLI_MIXED) && target->zipf > 0;
    if (skewed)
        zipf_init(&skew, target->input->count, target->zipf);
    farpool_stats before;
    farpool_stats_get(target->pool, &before);
    uint64_t start = fp_now_ns();
    int rc = start_workers(target, phase, skewed ? &skew : NULL, workers, &stop);
    if (rc) {
        free(workers);
        return rc;
    }
    progress(target, phase, workers, start);
    *result = (cli_result){.name = names[phase]};
    for (unsigned i = 0; i < target->threads; i++) {
        pthread_join(workers[i].thread, NULL);
        result->ops += workers[i].ops;
        if (workers[i].rc && !rc)
            rc = fp_error(workers[i].rc, "%s: %s", names[phase], workers[i].message);
        free(workers[i].buffer);
    }
    result->seconds = (double)(fp_now_ns() - start) / 1e9;
    if (!rc && (phase == CLI_LOAD || phase == CLI_MIXED))
        rc = send_out(target, &result->kept);
    farpool_stats_get(target->pool, &result->delta);
    subtract(&result->delta, &before);
    free(workers);
    return rc;
}
