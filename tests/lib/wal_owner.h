/* SPDX-License-Identifier: Apache-2.0 */
/* Owners of logs for model tests of WALs: each appends, fences, trims and reads at random, knows all that it has
 * appended and what was acknowledged, and checks whatever it is told. */
#ifndef FP_TESTS_LIB_WAL_OWNER_H
#define FP_TESTS_LIB_WAL_OWNER_H

#include "tests/lib/disk_scope.h"
#include "tests/lib/wal_log.h"

enum {
    WALS = 2,     /* on one volume */
    REQUESTS = 4, /* of a WAL at a time */
};

extern uint64_t wal_seed; /* under way */

void wal_check_failed(const char *file, int line, const char *condition) __attribute__((noreturn));
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            wal_check_failed(__FILE__, __LINE__, #condition);                                      \
        }                                                                                          \
    } while (0)

struct run;

typedef struct slot {
    fp_wal_req req;
    struct owner *owner;
    enum { IDLE, APPEND, FENCE, TRIM, READ } what;
    uint64_t value; /* upto, epoch, lsn; READ: from */
    uint8_t *buffer;
} slot;

typedef struct owner {
    struct run *run;
    wal_log log;
    fp_wal_options options;
    fp_wal *wal;
    slot slots[REQUESTS];
    uint64_t epoch;        /* of new frames */
    uint64_t acknowledged; /* LSN */
    uint64_t promised;     /* acknowledged */
    uint64_t trimmed;      /* asked for */
    unsigned failures;     /* since the last success */
    bool fencing;          /* nobody appends until it is known whether the fence holds */
    bool over;             /* for this life */
} owner;

typedef struct run {
    fp_sim_world *world;
    fp_disk_medium *medium;
    fp_disk *disk;
    uint64_t random;
    bool stop;
    bool armed, dead; /* the power may fail; it has */
    owner owners[WALS];
    uint64_t acknowledged, crashes, failed; /* altogether */
} run;

uint64_t wal_draw(run *r, uint64_t below);
uint64_t wal_now(const run *r); /* 0 without a world */
void open_owner(run *r, unsigned index);
void wal_owner_close(owner *o);
/* Of a WAL that has just been opened: everything acknowledged is there and nothing else. */
void check_all(owner *o);
/* What happens to a log when its WAL is opened again: a new owner's goes on where the WAL ends; the old one goes on
 * with its own. */
void take_over(owner *o);
void start_owners(run *r);
void poll_once(run *r);
bool wal_idle(const run *r); /* no request of theirs is under way */

#endif
