/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that a storage node that is being refilled from a peer may be killed with kill -9 at any moment, again and again:
 * what it has says nothing wrong at any time, and in the end it is whole. Round after round it loses its volume, or misses
 * log (some of which the peer has let go of), or a file is overwritten. Over shm and tcp; SEED=n repeats a run, as far
 * as processes can, and ROUNDS=n says how many.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/lib/pages_client.h"
#include "tests/lib/process.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum { P = 9, KILLS_MAX = 6, FRAMES_MAX = 2500 };

static test_process good, weak; /* weak is the one that is refilled */
static char good_volume[256], weak_volume[256];
static logclient good_client;
static page_log owner;
static uint64_t seed, random_state;
static unsigned kills, whole_after;

static uint64_t draw(uint64_t below) { return test_random(&random_state) % below; }

static void grow(unsigned frames)
{
    page_log_frames(&owner, 1, frames);
    test_pages_give(&good_client, &owner, FP_REDO_LSN_FIRST);
}

static void start_weak(const char *uri)
{
    char same[sizeof weak.uri];
    const char *peers[] = {good.uri};
    snprintf(same, sizeof same, "%s", uri);
    test_process_start_peer(&weak, same, weak_volume, NULL, peers, 1);
}

/* ---- what it says ---------------------------------------------------------------------------- */

/* True: it has all. What it has is right. */
static bool look(logclient *c, uint64_t from)
{
    (void)logclient_wal_open(c, P, 1, 0, from);
    int rc = logclient_ask(c, (fp_msg){.type = FP_MSG_WAL_GET, .partition = P});
    if (rc != FP_MSG_WAL_STATE)
        return false;
    uint64_t start = c->msg.wal.start, durable = c->msg.wal.durable;
    REQUIRE(durable <= owner.log.end);
    /* Killed when it had got no further, it lacks nothing of which somebody who appends from there on could tell. */
    if (durable >= from && durable < owner.log.end)
        (void)logclient_wal_open(c, P, 1, 0, owner.log.end);
    if (draw(4) == 0 && durable > start && logclient_get(c, P, start) == FP_MSG_LOG)
        REQUIRE(!memcmp(c->msg.data, owner.log.bytes + start, c->msg.data_len));
    return !test_pages_compare(c, &owner, durable) && durable == owner.log.end;
}

static void look_for(uint64_t ns, uint64_t from)
{
    logclient c;
    uint64_t until = fp_now_ns() + ns;
    test_must(logclient_open(&c, weak.uri, NULL), "connecting");
    do {
        if (look(&c, from))
            break;
    } while (fp_now_ns() < until);
    logclient_close(&c);
}

static void wait_whole(uint64_t from)
{
    logclient c;
    test_must(logclient_open(&c, weak.uri, NULL), "connecting");
    AWAIT(look(&c, from));
    logclient_close(&c);
}

/* ---- rounds ---------------------------------------------------------------------------------- */

enum { EMPTY, MISSES_LOG, HURT_LAYER, HURT_LOG, HURT_MANIFEST, HURT_STATE, PLANS };

static void do_harm(unsigned plan)
{
    static const char *const patterns[PLANS] = {
        [HURT_LAYER] = "file-*",
        [HURT_LOG] = "wal-*-0*",
        [HURT_MANIFEST] = "pages-*",
        [HURT_STATE] = "wal-*-state",
    };
    if (plan == EMPTY) {
        test_volume_remove(weak_volume);
        REQUIRE(!mkdir(weak_volume, 0755));
    } else if (plan >= HURT_LAYER) {
        bool both = plan == HURT_MANIFEST || plan == HURT_STATE;
        (void)test_pages_hurt(weak_volume, patterns[plan], both ? 0 : 4096 + (long)draw(4096), 64);
        if (both)
            (void)test_pages_hurt(weak_volume, patterns[plan], 4096, 64);
    }
}

static void one_round(unsigned round)
{
    static const char *const names[PLANS] = {"empty",    "misses log",    "layer hurt",
                                             "log hurt", "manifest hurt", "state hurt"};
    unsigned plan = round ? (unsigned)draw(PLANS) : EMPTY;
    uint64_t begin = fp_now_ns();
    REQUIRE(WTERMSIG(test_process_end(&weak, draw(2) ? SIGTERM : SIGKILL)) >= 0);
    grow(1 + (unsigned)(draw(3) ? draw(500) : draw(FRAMES_MAX)));
    uint64_t from = owner.log.end;
    grow(1 + (unsigned)draw(200));
    do_harm(plan);
    for (uint64_t n = draw(KILLS_MAX); n; n--) {
        start_weak(weak.uri);
        look_for(draw(60000000), from);
        REQUIRE(WTERMSIG(test_process_end(&weak, SIGKILL)) == SIGKILL);
        kills++;
    }
    start_weak(weak.uri);
    wait_whole(from);
    REQUIRE(WIFEXITED(test_process_end(&weak, SIGTERM)));
    test_pages_check(weak_volume);
    start_weak(weak.uri);
    whole_after++;
    printf("%u: %s: %.2f s\n", round, names[plan], (double)(fp_now_ns() - begin) / 1e9);
    fflush(stdout);
}

static void run(const char *scheme)
{
    const char *text = getenv("ROUNDS");
    unsigned rounds = text ? (unsigned)atoi(text) : getenv("FARPOOL_TEST_QUICK") ? 5 : 25;
    kills = whole_after = 0;
    page_log_open(&owner, P, FP_REDO_LSN_FIRST, seed);
    test_volume_make(good_volume);
    test_volume_make(weak_volume);
    test_process_start_storage(&good, scheme, good_volume);
    test_must(logclient_open(&good_client, good.uri, NULL), "connecting");
    start_weak(scheme);
    grow(FRAMES_MAX);
    for (unsigned round = 0; round < rounds; round++)
        one_round(round);
    logclient_close(&good_client);
    test_process_end(&weak, SIGTERM);
    test_process_end(&good, SIGTERM);
    test_volume_remove(weak_volume);
    test_volume_remove(good_volume);
    printf("%s: %u times refilled, %u times killed meanwhile, %llu MiB of log\n", scheme,
           whole_after, kills, (unsigned long long)owner.log.end >> 20);
    page_log_close(&owner);
}

int main(void)
{
    random_state = seed = test_seed(fp_now_ns() | 1);
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    test_process_schemes(run);
    return 0;
}
