/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/testcoordinator.h"

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/lib/require.h"
#include "tests/lib/scripted.h"

/* Nobody leaves it for being silent, were the machine to stand still for two seconds; what changes is told at once. */
enum { HEARTBEAT_MS = 1000 };

struct test_coordinator {
    pthread_t thread;
    int wake_fd;
    pthread_mutex_t lock; /* guards what follows */
    scripted s;
    bool stop;
};

static uint64_t now(void) { return fp_now_ns(); }

static void *serve(void *arg)
{
    test_coordinator *c = arg;
    int polled[FP_SERVER_NETS_MAX];
    REQUIRE(fp_server_fds(&c->s.server, polled) == 1);
    struct pollfd fds[] = {{.fd = polled[0], .events = POLLIN},
                           {.fd = c->wake_fd, .events = POLLIN}};
    for (;;) {
        uint64_t count;
        pthread_mutex_lock(&c->lock);
        scripted_step(&c->s);
        bool stop = c->stop;
        int ms = (int)c->s.heartbeat_ms;
        pthread_mutex_unlock(&c->lock);
        if (stop)
            return NULL;
        if (poll(fds, 2, ms) > 0 && fds[1].revents)
            REQUIRE(read(c->wake_fd, &count, sizeof count) == sizeof count);
    }
}

static void wake(test_coordinator *c)
{
    uint64_t one = 1;
    REQUIRE(write(c->wake_fd, &one, sizeof one) == sizeof one);
}

test_coordinator *test_coordinator_start(const char *uri)
{
    test_coordinator *c = calloc(1, sizeof *c);
    REQUIRE(c);
    c->wake_fd = eventfd(0, EFD_CLOEXEC);
    REQUIRE(c->wake_fd >= 0 && !pthread_mutex_init(&c->lock, NULL));
    scripted_open(&c->s, uri, NULL, now);
    c->s.heartbeat_ms = HEARTBEAT_MS;
    c->s.duties = json_pack("{s:[]}", "partitions");
    REQUIRE(!pthread_create(&c->thread, NULL, serve, c));
    return c;
}

const char *test_coordinator_uri(const test_coordinator *c) { return c->s.uri; }

void test_coordinator_stop(test_coordinator *c)
{
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_mutex_unlock(&c->lock);
    wake(c);
    pthread_join(c->thread, NULL);
    scripted_close(&c->s);
    close(c->wake_fd);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

void test_coordinator_assign(test_coordinator *c, json_t *partitions)
{
    pthread_mutex_lock(&c->lock);
    json_decref(c->s.duties);
    c->s.duties = json_pack("{s:o}", "partitions", partitions);
    c->s.revision++;
    pthread_mutex_unlock(&c->lock);
    wake(c);
}

void test_coordinator_answer(test_coordinator *c, json_t *answer)
{
    pthread_mutex_lock(&c->lock);
    json_decref(c->s.other);
    c->s.other = answer;
    pthread_mutex_unlock(&c->lock);
}

unsigned test_coordinator_others(test_coordinator *c)
{
    pthread_mutex_lock(&c->lock);
    unsigned others = c->s.others;
    pthread_mutex_unlock(&c->lock);
    return others;
}

unsigned test_coordinator_joins(test_coordinator *c)
{
    pthread_mutex_lock(&c->lock);
    unsigned joins = c->s.joins;
    pthread_mutex_unlock(&c->lock);
    return joins;
}

json_t *test_coordinator_card(test_coordinator *c)
{
    pthread_mutex_lock(&c->lock);
    json_t *card = json_deep_copy(c->s.card);
    pthread_mutex_unlock(&c->lock);
    return card;
}

json_t *test_coordinator_told(test_coordinator *c, uint64_t partition)
{
    size_t i;
    json_t *told = NULL;
    const json_t *one;
    pthread_mutex_lock(&c->lock);
    json_array_foreach(json_object_get(c->s.actual, "partitions"), i, one)
    {
        if ((uint64_t)json_integer_value(json_object_get(one, "id")) == partition)
            told = json_deep_copy(one);
    }
    pthread_mutex_unlock(&c->lock);
    return told;
}

json_t *test_duty(uint64_t id, uint64_t epoch, const char *phase, bool made, json_t *memnodes,
                  json_t *storagenodes)
{
    json_t *duty =
        json_pack("{s:I, s:s, s:I, s:s, s:s, s:b, s:b, s:o, s:o}", "id", (json_int_t)id, "name",
                  "orders", "epoch", (json_int_t)epoch, "phase", phase, "state", "active", "made",
                  made, "stored", false, "memnodes", memnodes, "storagenodes", storagenodes);
    json_t *numbers =
        json_pack("{s:I, s:I, s:i, s:i, s:I, s:i}", "slab_bytes", (json_int_t)12 << 20,
                  "space_bytes", (json_int_t)1 << 30, "log_copies", 3, "log_quorum", 2,
                  "log_ring_bytes", (json_int_t)4 << 20, "storage_quorum", 1);
    REQUIRE(duty && numbers && !json_object_update(duty, numbers));
    json_decref(numbers);
    return duty;
}
