/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that what a storage node has acknowledged outlives kill -9: a log is streamed to it, several appends at a time,
 * until it is killed at some moment; started again on its volume it has all that was acknowledged, and what it has
 * is the owner's log, read back byte by byte. Then the stream goes on from where it ends. Over shm and tcp; SEED=n
 * repeats a run, as far as processes can.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/redo.h"
#include "tests/lib/logclient.h"
#include "tests/lib/process.h"
#include "tests/lib/testnode.h"
#include "tests/lib/teststorage.h"

enum {
    ROUNDS = 25,
    PARTITION = 9,
    OUTSTANDING = 6,
    FRAME_MAX = 40000,
    LIFE_US = 30000, /* at most, while it streams */
};

static test_process node;
static wal_log owner;
static uint64_t random_state, acknowledged;

static uint64_t draw(uint64_t below) { return test_random(&random_state) % below; }

static void restart_client(logclient *c, uint64_t epoch)
{
    REQUIRE(!logclient_open(c, node.uri, NULL));
    int rc = logclient_wal_open(c, PARTITION, epoch, FRAME_MAX + 4096, FP_REDO_LSN_FIRST);
    REQUIRE(rc == FP_MSG_WAL_STATE && c->msg.wal.streaming && c->msg.epoch == epoch);
}

/* Keeps several appends under way until the node is gone. */
static void stream(logclient *c, uint64_t epoch)
{
    uint64_t upto[OUTSTANDING];
    uint64_t asked = 0, answered = 0, kill_at = fp_now_ns() + draw(LIFE_US) * 1000;
    uint32_t before = c->answered;
    bool killed = false;
    while (!c->closed) {
        if (!killed && fp_now_ns() >= kill_at) {
            REQUIRE(kill(node.pid, SIGKILL) == 0);
            killed = true;
        }
        while (asked - answered < OUTSTANDING) {
            wal_log_frame(&owner, epoch, 50 + draw(draw(8) ? 3000 : FRAME_MAX), 0);
            if (owner.end > c->landing_free || logclient_land(c, &owner, owner.end))
                break;
            logclient_append(c, owner.end);
            upto[asked++ % OUTSTANDING] = owner.end;
        }
        if (!logclient_wait(c, before + 1))
            break;
        for (; before < c->answered; before++, answered++) {
            REQUIRE(c->msg.type == FP_MSG_WAL_STATE);
            acknowledged = upto[answered % OUTSTANDING];
        }
        REQUIRE(c->msg.wal.durable >= acknowledged);
    }
    REQUIRE(killed);
}

static void check(logclient *c)
{
    uint64_t end = c->msg.wal.end;
    REQUIRE(c->msg.wal.durable == end && end >= acknowledged && end <= owner.end);
    wal_log_truncate(&owner, end); /* a frame's end */
    REQUIRE(logclient_compare(c, &owner, FP_REDO_LSN_FIRST) == end);
    acknowledged = end;
}

static void run(const char *scheme)
{
    char volume[256];
    logclient c;
    test_volume_make(volume);
    wal_log_open(&owner, PARTITION, FP_REDO_LSN_FIRST);
    acknowledged = FP_REDO_LSN_FIRST;
    uint64_t bytes = 0;
    for (uint64_t epoch = 1; epoch <= ROUNDS; epoch++) {
        test_process_start_storage(&node, scheme, volume);
        restart_client(&c, epoch);
        check(&c);
        bytes = acknowledged;
        stream(&c, epoch);
        logclient_close(&c);
        REQUIRE(test_process_end(&node, SIGKILL) == SIGKILL);
    }
    test_process_start_storage(&node, scheme, volume);
    restart_client(&c, ROUNDS);
    check(&c);
    logclient_close(&c);
    REQUIRE(test_process_end(&node, SIGTERM) == 0);
    printf("%s: %d kills, a log of %llu bytes\n", scheme, ROUNDS, (unsigned long long)bytes);
    wal_log_close(&owner);
    test_volume_remove(volume);
}

int main(void)
{
    random_state = test_seed(fp_now_ns() | 1);
    if (!test_storage_possible()) {
        printf("%s\n", farpool_errmsg());
        return 77;
    }
    test_process_schemes(run);
    return 0;
}
