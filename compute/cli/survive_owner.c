/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An owner of the partition in the demo's phase "survive".
 *
 * A write is the record's own value and, behind it, the number of the write. Each record is written by one thread, so
 * what is there after a kill is the write acknowledged last or a later one that had begun.
 */
#include "compute/cli/survive_owner.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

enum {
    STORAGE_BATCH = 32, /* writes of a thread that wait for stable media together */
    TIMEOUT_MS = 10000,
    LOOK_EACH = 100, /* writes, whether memory nodes have been filled */
};

/* ---- threads over all records ------------------------------------------------------------------ */

typedef struct owner {
    survive *s;
    farpool_pool *pool;
    farpool_partition *partition;
    farpool_btree *tree;
    enum farpool_durability durability; /* of writes */
} owner;

typedef struct worker {
    owner *o;
    pthread_t thread;
    size_t index;
    char *buffer;
    uint64_t records; /* compared */
    int rc;
    char message[512];
} worker;

/* The nth record in a scattered order. Worker i has each whose n is i modulo the number of threads. */
static size_t nth(const survive *s, size_t n)
{
    return (size_t)((unsigned __int128)n * s->step % s->plan->input->count);
}

/* Values that would be too long with the number are cut. */
size_t cli_survive_length(const cli_record *record)
{
    size_t most = FARPOOL_VALUE_MAX - sizeof(uint32_t);
    return record->value.len < most ? record->value.len : most;
}

static int compare(worker *w, size_t i)
{
    const cli_record *record = &w->o->s->plan->input->records[i];
    note *n = &w->o->s->notes->records[i];
    size_t own = cli_survive_length(record), len = 0;
    uint32_t number = 0, least = atomic_load(&n->acknowledged), most = atomic_load(&n->tried);
    int rc = farpool_btree_lookup(w->o->tree, record->key, w->buffer, w->o->s->longest, &len);
    if (rc && rc != FARPOOL_E_NOTFOUND && rc != FARPOOL_E_TOO_BIG)
        return rc;
    if (!rc && len == own + sizeof number)
        memcpy(&number, w->buffer + own, sizeof number);
    bool whole =
        rc == FARPOOL_E_NOTFOUND || (number && memcmp(w->buffer, record->value.data, own) == 0);
    if (!whole || number < least || number > most)
        return fp_error(FARPOOL_E_CORRUPT,
                        "record '%.*s' (input line %llu): writes up to %u were acknowledged and %u "
                        "begun, %s %u is there",
                        (int)(record->key.len < 80 ? record->key.len : 80),
                        (const char *)record->key.data, (unsigned long long)record->line, least,
                        most, whole ? "write" : "something else than write", number);
    /* What had begun and is there now was recovered; what is not there must never come back. */
    atomic_store(&n->tried, number);
    atomic_store(&n->acknowledged, number);
    w->records += least > 0;
    return 0;
}

static void *compare_own(void *arg)
{
    worker *w = arg;
    const cli_survive *plan = w->o->s->plan;
    for (size_t n = w->index; n < plan->input->count && !w->rc; n += plan->threads)
        w->rc = compare(w, nth(w->o->s, n));
    if (w->rc)
        snprintf(w->message, sizeof w->message, "%s", farpool_errmsg());
    return NULL;
}

static void note_time(notes *shared)
{
    uint64_t now = fp_now_ns();
    uint64_t last = atomic_exchange(&shared->last_ns, now);
    uint64_t longest = atomic_load(&shared->pause_ns);
    while (last && now > last && now - last > longest &&
           !atomic_compare_exchange_weak(&shared->pause_ns, &longest, now - last))
        ;
}

/* Writes the worker's records from the nth on. */
static int write_some(worker *w, size_t *n, unsigned count)
{
    const cli_survive *plan = w->o->s->plan;
    notes *shared = w->o->s->notes;
    size_t from = *n;
    int rc = 0;
    for (unsigned i = 0; i < count && !rc; i++, *n += plan->threads) {
        size_t at = nth(w->o->s, *n);
        const cli_record *record = &plan->input->records[at];
        size_t own = cli_survive_length(record);
        uint32_t number = atomic_load(&shared->records[at].tried) + 1;
        memcpy(w->buffer, record->value.data, own);
        memcpy(w->buffer + own, &number, sizeof number);
        atomic_store(&shared->records[at].tried, number);
        rc = farpool_btree_put(w->o->tree, record->key,
                               (farpool_slice){w->buffer, own + sizeof number});
    }
    if (!rc)
        rc = farpool_wait_durable(w->o->partition, UINT64_MAX, w->o->durability);
    if (rc)
        return rc;
    note_time(shared);
    atomic_fetch_add(&shared->acknowledged, count);
    for (; from != *n; from += plan->threads) {
        note *record = &shared->records[nth(w->o->s, from)];
        atomic_store(&record->acknowledged, atomic_load(&record->tried));
    }
    return 0;
}

/* The set of memory nodes is the same as ever; one of them has nothing any more. */
static int take_in(owner *o)
{
    survive *s = o->s;
    uint64_t start = fp_now_ns();
    int rc = farpool_partition_reconfigure(o->partition, ++s->epoch, s->memnodes.uris,
                                           s->memnodes.count);
    atomic_store(&s->notes->taken_ns, fp_now_ns() - start);
    atomic_store(&s->notes->take_in, false);
    return rc;
}

/* Since start_ns; whether that is so, and noted. */
static bool is_filled(owner *o, uint64_t start_ns)
{
    farpool_stats stats;
    farpool_stats_get(o->pool, &stats);
    if (!stats.fill_left)
        atomic_store(&o->s->notes->filled_ns, fp_now_ns() - start_ns);
    return !stats.fill_left;
}

static void *write_own(void *arg)
{
    worker *w = arg;
    const cli_survive *plan = w->o->s->plan;
    size_t own = (plan->input->count - w->index + plan->threads - 1) / plan->threads, done = 0;
    unsigned batch = w->o->durability == FARPOOL_DURABLE_STORAGE ? STORAGE_BATCH : 1;
    uint64_t taken_in = 0, looks = 0; /* 0: none is to be filled */
    while (!w->rc && !atomic_load(&w->o->s->notes->enough)) {
        size_t n = w->index + done * plan->threads;
        unsigned count = own - done < batch ? (unsigned)(own - done) : batch;
        w->rc = write_some(w, &n, count);
        if (!w->rc && w->index == 0 && atomic_load(&w->o->s->notes->take_in)) {
            w->rc = take_in(w->o);
            taken_in = fp_now_ns();
        }
        if (taken_in && looks++ % LOOK_EACH == 0 && is_filled(w->o, taken_in))
            taken_in = 0;
        done = (done + count) % own;
    }
    if (w->rc) {
        snprintf(w->message, sizeof w->message, "%s", farpool_errmsg());
        atomic_store(&w->o->s->notes->enough, true);
    }
    return NULL;
}

/* Runs fn on all threads; *records: how many they have compared. */
static int on_threads(owner *o, void *(*fn)(void *), uint64_t *records)
{
    unsigned threads = o->s->plan->threads, started;
    if (threads > o->s->plan->input->count)
        threads = (unsigned)o->s->plan->input->count; /* the others would have no record */
    worker *workers = calloc(threads, sizeof *workers);
    int rc = 0;
    if (!workers)
        return fp_error(FARPOOL_E_NOMEM, "no memory for %u threads", threads);
    for (started = 0; started < threads; started++) {
        worker *w = &workers[started];
        *w = (worker){.o = o, .index = started, .buffer = malloc(o->s->longest)};
        if (w->buffer && !pthread_create(&w->thread, NULL, fn, w))
            continue;
        free(w->buffer);
        rc = fp_error(FARPOOL_E_NOMEM, "starting a thread failed");
        atomic_store(&o->s->notes->enough, true);
        break;
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        free(workers[i].buffer);
        if (workers[i].rc && !rc)
            rc = fp_error(workers[i].rc, "%s", workers[i].message);
        if (records)
            *records += workers[i].records;
    }
    free(workers);
    return rc;
}

/* ---- an owner -------------------------------------------------------------------------------- */

static int open_partition(owner *o, enum farpool_recover recover)
{
    const survive *s = o->s;
    farpool_pool_options here;
    farpool_pool_options_init(&here);
    here.pool_bytes = s->plan->pool_bytes;
    here.mapping = s->plan->vm ? FARPOOL_MAPPING_VM : FARPOOL_MAPPING_FRAMES;
    here.name = "survive";
    int rc = farpool_pool_open(&here, &o->pool);
    if (rc)
        return rc;
    farpool_partition_options there;
    farpool_partition_options_init(&there);
    there.epoch = s->epoch;
    there.memnodes = s->memnodes.uris;
    there.memnode_count = s->memnodes.count;
    there.slab_bytes = s->slab_bytes;
    there.log_copies = CLI_SURVIVE_NODES;
    there.log_quorum = CLI_SURVIVE_QUORUM;
    there.log_ring_bytes = s->ring_bytes;
    there.storagenodes = s->storage.uris;
    there.storagenode_count = s->storage.count;
    there.timeout_ms = TIMEOUT_MS;
    there.recover = recover;
    rc = farpool_partition_open(o->pool, &there, &o->partition);
    if (rc)
        return rc;
    if (recover == FARPOOL_NEW)
        return farpool_btree_create(o->partition, &s->notes->root, &o->tree);
    return farpool_btree_open(o->partition, s->notes->root, &o->tree);
}

/* Compares all records. What was found before by this owner stays: when it had opened the partition. */
static int compare_all(owner *o)
{
    cli_comeback *found = &o->s->notes->found;
    farpool_stats before, after;
    uint64_t start = fp_now_ns();
    farpool_stats_get(o->pool, &before);
    found->records = 0;
    int rc = on_threads(o, compare_own, &found->records);
    found->compared_seconds = (double)(fp_now_ns() - start) / 1e9;
    farpool_stats_get(o->pool, &after);
    found->from_storage = after.stored_reads - before.stored_reads;
    return rc;
}

static int recover_and_compare(owner *o, enum farpool_recover recover)
{
    cli_comeback *found = &o->s->notes->found;
    uint64_t start = fp_now_ns();
    int rc = open_partition(o, recover);
    if (rc)
        return rc;
    found->open_ms = (double)(fp_now_ns() - start) / 1e6;
    worker first = {.o = o, .buffer = malloc(o->s->longest)};
    rc = first.buffer ? compare(&first, 0) : fp_error(FARPOOL_E_NOMEM, "no memory for a record");
    free(first.buffer);
    found->first_ms = (double)(fp_now_ns() - start) / 1e6;
    return rc ? rc : compare_all(o);
}

static void reached(owner *o) { atomic_fetch_add(&o->s->notes->reached, 1); }

static int write_until_enough(owner *o, enum farpool_durability durability)
{
    o->durability = durability;
    atomic_store(&o->s->notes->writing, true);
    int rc = on_threads(o, write_own, NULL);
    atomic_store(&o->s->notes->writing, false);
    return rc;
}

static int second_owner(owner *o)
{
    int rc = recover_and_compare(o, FARPOOL_RECOVER);
    if (rc)
        return rc;
    reached(o);
    rc = write_until_enough(o, FARPOOL_DURABLE_MEMORY);
    if (!rc)
        rc = compare_all(o);
    /* From here on all that was acknowledged has to outlive the memory of all nodes. */
    if (!rc)
        rc = farpool_wait_durable(o->partition, UINT64_MAX, FARPOOL_DURABLE_STORAGE);
    if (rc)
        return rc;
    atomic_store(&o->s->notes->enough, false);
    reached(o);
    return write_until_enough(o, FARPOOL_DURABLE_STORAGE);
}

static int third_owner(owner *o)
{
    int rc = recover_and_compare(o, FARPOOL_RECOVER_STORED);
    if (rc)
        return rc;
    reached(o);
    farpool_btree_close(o->tree);
    rc = farpool_partition_close(o->partition);
    return rc ? rc : farpool_pool_close(o->pool);
}

void cli_survive_own(survive *s)
{
    owner o = {.s = s};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int rc;
    if (s->epoch == 1) {
        rc = open_partition(&o, FARPOOL_NEW);
        rc = rc ? rc : write_until_enough(&o, FARPOOL_DURABLE_MEMORY);
    } else {
        rc = s->epoch == 2 ? second_owner(&o) : third_owner(&o);
    }
    s->notes->rc = rc;
    snprintf(s->notes->message, sizeof s->notes->message, "%s", farpool_errmsg());
    _exit(rc != 0);
}
