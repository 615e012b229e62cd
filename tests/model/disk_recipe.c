/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that on a simulated disk several writers at once, who all follow the recipe of disk.h (temporary name, WRITE,
 * SYNC, RENAME, SYNC_DIR), never lose what was acknowledged to them, whatever fails and whenever the power does; and
 * never find a file that is not whole. Prints the seed that fails; SEED=n runs that one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/lib/disk_scope.h"
#include "tests/lib/seeds.h"

enum { BLOCK = FP_DISK_ALIGN, BLOCKS_MAX = 5, WRITERS = 6, CRASHES = 6, SEEDS = 300 };

static uint64_t seed; /* under way */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "SEED=%llu: line %d: %s is false (%s)\n", (unsigned long long)seed,    \
                    __LINE__, #condition, farpool_errmsg());                                       \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static const fp_disk_sim_config plain = {0};

struct run;

/* One file of its own, replaced by version after version. Version n is of blocks_of(n) blocks full of n. */
typedef struct writer {
    struct run *run;
    fp_disk_req req;
    fp_disk_file *file;
    uint8_t *data;
    unsigned version;      /* being written */
    unsigned acknowledged; /* its SYNC_DIR has completed: this one or a later one is there */
    char name[16], temporary[16];
    bool over; /* something has failed, or the power has */
} writer;

typedef struct run {
    fp_sim_world *world;
    fp_disk_medium *medium;
    fp_disk *disk;
    writer writers[WRITERS];
    unsigned acknowledged; /* altogether */
} run;

static size_t blocks_of(unsigned version) { return 1 + version % BLOCKS_MAX; }

static void submit(writer *w, enum fp_disk_kind kind)
{
    w->req.kind = kind;
    w->req.file = w->file;
    fp_disk_submit(w->run->disk, &w->req);
}

static void start(writer *w)
{
    CHECK(++w->version <= UINT8_MAX);
    memset(w->data, (int)w->version, blocks_of(w->version) * BLOCK);
    w->req.len = blocks_of(w->version) * BLOCK;
    w->req.name = w->temporary;
    w->file = NULL;
    submit(w, FP_DISK_OPEN);
}

static void acknowledge(writer *w)
{
    w->acknowledged = w->version;
    w->run->acknowledged++;
    start(w);
}

/* The next step of the recipe. After a failure the writer does nothing more until the node has started again. */
static void step(fp_disk_req *req)
{
    writer *w = req->user;
    if (req->status) {
        w->over = true;
        return;
    }
    switch (req->kind) {
    case FP_DISK_OPEN:
        w->file = req->file;
        submit(w, FP_DISK_WRITE);
        break;
    case FP_DISK_WRITE:
        submit(w, FP_DISK_SYNC);
        break;
    case FP_DISK_SYNC:
        submit(w, FP_DISK_CLOSE);
        break;
    case FP_DISK_CLOSE:
        w->file = NULL;
        req->name = w->temporary;
        req->new_name = w->name;
        req->replace = true;
        submit(w, FP_DISK_RENAME);
        break;
    case FP_DISK_RENAME:
        submit(w, FP_DISK_SYNC_DIR);
        break;
    default:
        acknowledge(w);
    }
}

static void crash(void *medium) { fp_disk_sim_crash(medium); }

/* What the node finds when it starts: the file is whole, and not older than what was acknowledged. */
static void recover(run *r, writer *w)
{
    fp_disk_req open = {.kind = FP_DISK_OPEN, .name = w->name, .mode = FP_DISK_READ_ONLY};
    int rc = disk_unlink(r->disk, w->temporary);
    CHECK(rc == 0 || rc == FARPOOL_E_NOTFOUND);
    rc = disk_do(r->disk, &open);
    CHECK(rc == 0 || (rc == FARPOOL_E_NOTFOUND && !w->acknowledged));
    if (rc)
        return;
    fp_disk_req size = {.kind = FP_DISK_SIZE, .file = open.file};
    CHECK(!disk_do(r->disk, &size));
    CHECK(size.size >= BLOCK && size.size <= BLOCKS_MAX * BLOCK);
    CHECK(!disk_read(r->disk, open.file, 0, w->data, size.size));
    unsigned found = w->data[0];
    CHECK(found >= w->acknowledged && found <= w->version);
    CHECK(size.size == blocks_of(found) * BLOCK);
    for (size_t i = 0; i < size.size; i++)
        CHECK(w->data[i] == found);
    CHECK(!disk_close_file(r->disk, open.file));
}

/* Writes until the power fails, at a drawn time; then starts again. */
static void live(run *r, uint64_t lifetime_ns)
{
    fp_sim_at(r->world, fp_sim_now_ns(r->world) + lifetime_ns, crash, r->medium);
    for (unsigned i = 0; i < WRITERS; i++) {
        writer *w = &r->writers[i];
        w->req = (fp_disk_req){.buffer = w->data, .done = step, .user = w};
        w->over = false;
        start(w);
    }
    uint64_t end = fp_sim_now_ns(r->world) + lifetime_ns;
    while (fp_sim_now_ns(r->world) <= end)
        CHECK(fp_disk_poll(r->disk, 1) >= 0);
    fp_disk_close(r->disk);
    fp_disk_sim_configure(r->medium, &plain);
    for (unsigned i = 0; i < WRITERS; i++)
        CHECK(r->writers[i].over);
    CHECK(!fp_disk_open("sim", &(fp_disk_options){.medium = r->medium}, &r->disk));
    for (unsigned i = 0; i < WRITERS; i++)
        recover(r, &r->writers[i]);
}

static uint64_t acknowledged;

static uint64_t run_seed(uint64_t number)
{
    seed = number;
    run *r = calloc(1, sizeof *r);
    CHECK(r);
    CHECK(!fp_sim_world_open(seed, &(fp_sim_config){0}, &r->world));
    CHECK(!fp_disk_medium_open(r->world, &plain, &r->medium));
    CHECK(!fp_disk_open("sim", &(fp_disk_options){.medium = r->medium}, &r->disk));
    for (unsigned i = 0; i < WRITERS; i++) {
        writer *w = &r->writers[i];
        w->run = r;
        w->data = disk_buffer(BLOCKS_MAX * BLOCK, 0);
        snprintf(w->name, sizeof w->name, "file-%u", i);
        snprintf(w->temporary, sizeof w->temporary, "file-%u.tmp", i);
    }
    for (unsigned i = 0; i < CRASHES; i++) {
        fp_disk_sim_config faulty = {.slow_per_million = 50000, .slow_ns = 500000};
        for (int kind = 0; kind < FP_DISK_KINDS && seed % 3 == 0; kind++)
            faulty.eio_per_million[kind] = 10000;
        fp_disk_sim_configure(r->medium, &faulty);
        uint64_t lifetime = 100000 + seed * 7919 % 97 * 50000 / (i + 1);
        live(r, lifetime);
    }
    uint64_t hash = fp_sim_trace_hash(r->world);
    acknowledged += r->acknowledged;
    for (unsigned i = 0; i < WRITERS; i++)
        free(r->writers[i].data);
    fp_disk_close(r->disk);
    fp_disk_medium_close(r->medium);
    fp_sim_world_close(r->world);
    free(r);
    return hash;
}

int main(void)
{
    const test_seeds seeds = {.all = SEEDS, .quick = SEEDS, .twice = 50};
    bool all = test_seeds_run(&seeds, run_seed);
    printf("%llu versions acknowledged\n", (unsigned long long)acknowledged);
    CHECK(!all || acknowledged > 1000);
    return 0;
}
