/* SPDX-License-Identifier: Apache-2.0 */
/* The spiller's life, its rings, its steps and its thread. */
#include "memnode/spill.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/config.h"
#include "common/error.h"
#include "common/log.h"
#include "common/spawn.h"
#include "memnode/spill_inside.h"

enum {
    TIMEOUT_MS = 10000,
    BUSY_NS = 1000000,     /* between looks at a ring whose log grows */
    IDLE_NS = 20000000,    /* at one whose log does not */
    FLOWING_NS = 50000000, /* it does, if it has so long ago */
    STILL_NS = 1000000000, /* times STILL_SECONDS without progress are worth a warning, */
    STILL_SECONDS = 10,
    STILL_AGAIN_SECONDS = 60, /* and another one after these */
};

/* ---- life ------------------------------------------------------------------------------------ */

int fp_spill_open(const fp_spill_config *config, fp_spill **out)
{
    fp_uri uri;
    int rc = config->storage ? fp_uri_parse(config->storage, &uri) : 0;
    if (rc)
        return rc;
    fp_spill *spill = calloc(1, sizeof *spill);
    if (!spill)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a spiller");
    if (config->storage)
        strcpy(spill->storage, config->storage); /* its length was checked by fp_uri_parse */
    strcpy(spill->target, spill->storage);
    snprintf(spill->name, sizeof spill->name, "%s", config->name);
    if (config->net)
        spill->net_options = *config->net;
    spill->timeout_ns = (config->timeout_ms ? config->timeout_ms : TIMEOUT_MS) * 1000000ull;
    spill->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (spill->wake_fd < 0) {
        rc = fp_error_sys("opening an eventfd");
        goto err_after_alloc;
    }
    rc = spill->storage[0] ? fp_spill_net_open(spill) : 0;
    if (rc)
        goto err_after_eventfd;
    pthread_mutex_init(&spill->lock, NULL);
    *out = spill;
    return 0;
err_after_eventfd:
    close(spill->wake_fd);
err_after_alloc:
    free(spill);
    return rc;
}

static void free_ring(fp_spill_ring *ring)
{
    free(ring->extents);
    free(ring);
}

void fp_spill_close(fp_spill *spill)
{
    if (!spill)
        return;
    if (spill->conn)
        fp_net_conn_close(spill->conn);
    fp_spill_net_close(spill);
    while (spill->rings) {
        fp_spill_ring *ring = spill->rings;
        spill->rings = ring->next;
        free_ring(ring);
    }
    pthread_mutex_destroy(&spill->lock);
    close(spill->wake_fd);
    free(spill);
}

/* ---- rings ----------------------------------------------------------------------------------- */

/* Full is as good as written: the thread has not looked yet. */
void fp_spill_wake(const fp_spill *spill)
{
    uint64_t one = 1;
    ssize_t n = write(spill->wake_fd, &one, sizeof one);
    FP_ASSERT(n == sizeof one || errno == EAGAIN);
}

int fp_spill_add_ring(fp_spill *spill, uint64_t partition, void *const *extents, uint32_t count,
                      uint64_t extent_bytes)
{
    FP_ASSERT(count && extent_bytes > FP_RING_LOG_AT);
    fp_spill_ring *ring = calloc(1, sizeof *ring);
    uint8_t **copy = malloc(count * sizeof *copy);
    if (!ring || !copy) {
        free(ring);
        free(copy);
        return fp_error(FARPOOL_E_NOMEM, "the memory node has no memory for spilling a ring");
    }
    for (uint32_t i = 0; i < count; i++)
        copy[i] = extents[i];
    ring->partition = partition;
    ring->extents = copy;
    ring->extent_count = count;
    ring->extent_bytes = extent_bytes;
    ring->moved_ns = fp_spill_now(spill);
    pthread_mutex_lock(&spill->lock);
    if (spill->target[0])
        fp_spill_ring_begin(ring);
    ring->number = ++spill->ring_numbers;
    ring->next = spill->rings;
    spill->rings = ring;
    pthread_mutex_unlock(&spill->lock);
    fp_spill_wake(spill);
    return 0;
}

void fp_spill_remove_ring(fp_spill *spill, uint64_t partition)
{
    pthread_mutex_lock(&spill->lock);
    fp_spill_ring **link = &spill->rings, *ring;
    while ((ring = *link) && ring->partition != partition)
        link = &ring->next;
    if (ring) {
        *link = ring->next;
        spill->orphaned = true;
    }
    pthread_mutex_unlock(&spill->lock);
    if (ring)
        free_ring(ring);
    fp_spill_wake(spill);
}

void fp_spill_target(fp_spill *spill, const char *storage)
{
    pthread_mutex_lock(&spill->lock);
    snprintf(spill->target, sizeof spill->target, "%s", storage ? storage : "");
    bool other = strcmp(spill->target, spill->storage) != 0;
    pthread_mutex_unlock(&spill->lock);
    if (other)
        fp_spill_wake(spill);
}

void fp_spill_reached(fp_spill *spill, char storage[FP_NET_URI_MAX])
{
    pthread_mutex_lock(&spill->lock);
    strcpy(storage, spill->greeted ? spill->storage : "");
    pthread_mutex_unlock(&spill->lock);
}

void fp_spill_usage_get(const fp_spill *spill, fp_spill_usage *usage)
{
    usage->lag = atomic_load_explicit(&spill->lag, memory_order_relaxed);
    usage->gaps = atomic_load_explicit(&spill->gaps, memory_order_relaxed);
}

uint32_t fp_spill_rings_get(fp_spill *spill, fp_spill_ring_usage *rings, uint32_t max)
{
    uint32_t count = 0;
    pthread_mutex_lock(&spill->lock);
    for (const fp_spill_ring *ring = spill->rings; ring && count < max; ring = ring->next) {
        const fp_ring_owner *owner = &ring->owner; /* as checked when it was looked at last */
        rings[count++] = (fp_spill_ring_usage){
            .partition = ring->partition,
            .log_bytes = owner->log_bytes,
            .used_bytes = owner->durable > owner->start ? owner->durable - owner->start : 0,
            .lag_bytes = fp_spill_ring_lag(ring),
        };
    }
    pthread_mutex_unlock(&spill->lock);
    return count;
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* In how many ns the ring is to be looked at again. */
static uint64_t ring_delay(const fp_spill_ring *ring, uint64_t now)
{
    bool lags = fp_spill_ring_lag(ring);
    if ((lags && now >= ring->due_ns) || (ring->owner.magic && now - ring->flowing_ns < FLOWING_NS))
        return BUSY_NS;
    if (lags && ring->due_ns - now < IDLE_NS)
        return ring->due_ns - now;
    return IDLE_NS;
}

static void warn(fp_spill *spill, uint64_t lag, uint64_t moved_ns, uint64_t now)
{
    uint64_t still = (now - moved_ns) / STILL_NS;
    if (!lag || still < STILL_SECONDS ||
        (spill->warned_ns && now - spill->warned_ns < STILL_AGAIN_SECONDS * (uint64_t)STILL_NS))
        return;
    char text[32];
    spill->warned_ns = now;
    fp_log(FP_LOG_WARN,
           "spilling stands still: %s of redo log are not on stable media; nothing has moved for "
           "%" PRIu64 " s",
           fp_config_size_text(lag, text, sizeof text), still);
}

/* Looks at every ring. Returns in how many ns to do so again. */
static uint64_t look(fp_spill *spill, uint64_t now)
{
    uint64_t delay = UINT64_MAX, lag = 0, gaps = 0, moved_ns = now;
    for (fp_spill_ring *ring = spill->storage[0] ? spill->rings : NULL; ring; ring = ring->next) {
        fp_spill_look(ring, now);
        uint64_t ring_lag = fp_spill_ring_lag(ring), again = ring_delay(ring, now);
        lag += ring_lag;
        gaps += ring->gap;
        if (ring_lag && ring->moved_ns < moved_ns)
            moved_ns = ring->moved_ns;
        delay = again < delay ? again : delay;
    }
    atomic_store_explicit(&spill->lag, lag, memory_order_relaxed);
    atomic_store_explicit(&spill->gaps, gaps, memory_order_relaxed);
    warn(spill, lag, moved_ns, now);
    return delay;
}

/* Each ring in turn, until one had a chunk to send. */
static bool send_something(fp_spill *spill, uint64_t now)
{
    fp_spill_ring *first = spill->rings;
    while (first &&
           first->number >= spill->turn) /* they are in the order of their numbers, falling */
        first = first->next;
    first = first ? first : spill->rings;
    fp_spill_ring *ring = first;
    while (ring) {
        if (fp_spill_ring_step(spill, ring, now)) {
            spill->turn = ring->number;
            return true;
        }
        ring = ring->next ? ring->next : spill->rings;
        if (ring == first)
            return false;
    }
    return false;
}

uint64_t fp_spill_step(fp_spill *spill)
{
    fp_spill_retarget(spill, fp_spill_now(spill));
    fp_spill_poll(spill, fp_spill_now(spill));
    fp_spill_connect(spill, fp_spill_now(spill));
    uint64_t now = fp_spill_now(spill);
    pthread_mutex_lock(&spill->lock);
    if (spill->conn && spill->orphaned) /* or no other node could append to that log */
        fp_spill_cut(spill, now, "a log ring was given back");
    spill->orphaned = false;
    uint64_t delay = look(spill, now);
    bool more = send_something(spill, now);
    if (!spill->conn && spill->rings && spill->storage[0]) {
        uint64_t due = spill->connect_ns > now ? spill->connect_ns - now : 0;
        delay = due < IDLE_NS ? due : IDLE_NS;
    }
    pthread_mutex_unlock(&spill->lock);
    return more ? 0 : delay;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void *run(void *arg)
{
    fp_spill *spill = arg;
    struct pollfd fds[2] = {{.events = POLLIN}, {.fd = spill->wake_fd, .events = POLLIN}};
    while (!atomic_load_explicit(&spill->stop, memory_order_acquire)) {
        uint64_t delay = fp_spill_step(spill), wakes;
        if (!delay)
            continue;
        fds[0].fd = spill->poller ? fp_net_poller_fd(spill->poller) : -1;
        struct timespec timeout = {(time_t)(delay / 1000000000), (long)(delay % 1000000000)};
        if (ppoll(fds, 2, delay == UINT64_MAX ? NULL : &timeout, NULL) > 0 && fds[1].revents &&
            read(spill->wake_fd, &wakes, sizeof wakes) < 0)
            FP_ASSERT(errno == EAGAIN || errno == EINTR);
    }
    return NULL;
}

int fp_spill_start(fp_spill *spill)
{
    errno = fp_spawn(&spill->thread, run, spill);
    return errno ? fp_error_sys("starting the spiller's thread") : 0;
}

void fp_spill_stop(fp_spill *spill)
{
    atomic_store_explicit(&spill->stop, true, memory_order_release);
    fp_spill_wake(spill);
    pthread_join(spill->thread, NULL);
}
