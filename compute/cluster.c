/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cluster.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "common/auth.h"
#include "common/clock.h"
#include "common/error.h"
#include "common/log.h"
#include "common/net/sim.h"
#include "common/spawn.h"
#include "compute/cluster_inside.h"

enum {
    LOOK_MS = 250, /* at partitions that are open */
    LEAVE_MS = 1000,
    ROUTE_MS = 5000,
};

void farpool_cluster_options_init(farpool_cluster_options *options)
{
    *options = (farpool_cluster_options){
        .struct_size = sizeof *options,
        .zone = "",
        .rack = "",
        .address = "",
        .standby = 1,
        .timeout_ms = 5000,
        .join_ms = 10000,
    };
}

/* ---- who waits for whom ---------------------------------------------------------------------- */

static void wake_talker(farpool_cluster *cluster)
{
    uint64_t one = 1;
    if (write(cluster->wake_fd, &one, sizeof one) < 0)
        return; /* it is full: the talker is awake */
}

uint64_t fp_cluster_now(const farpool_cluster *cluster)
{
    return fp_net_clock_ns(&cluster->pool->net_options);
}

void fp_cluster_changed_locked(farpool_cluster *cluster)
{
    cluster->to_tell = true;
    wake_talker(cluster);
    pthread_cond_broadcast(&cluster->changed);
}

bool fp_cluster_wait_locked(farpool_cluster *cluster, uint64_t until_ns)
{
    struct timespec until = fp_timespec(until_ns);
    if (until_ns)
        return pthread_cond_timedwait(&cluster->changed, &cluster->lock, &until) == ETIMEDOUT;
    pthread_cond_wait(&cluster->changed, &cluster->lock);
    return false;
}

/* ---- asking ---------------------------------------------------------------------------------- */

static void answered(void *arg, int status, const json_t *answer)
{
    fp_question *q = arg;
    json_t *copy = status ? NULL : json_deep_copy(answer);
    if (!status && !copy)
        status = fp_error(FARPOOL_E_NOMEM, "no memory for a coordinator's answer");
    pthread_mutex_lock(&q->cluster->lock);
    if (status)
        fp_kept_set(&q->failed, status);
    q->answer = copy;
    q->done = true;
    pthread_cond_broadcast(&q->cluster->changed);
    pthread_mutex_unlock(&q->cluster->lock);
}

/* By the talker. */
static void ask_questions(farpool_cluster *cluster)
{
    pthread_mutex_lock(&cluster->lock);
    fp_question *list = cluster->questions;
    cluster->questions = NULL;
    pthread_mutex_unlock(&cluster->lock);
    while (list) {
        fp_question *q = list;
        json_t *call = q->call;
        list = q->next;
        q->call = NULL;
        fp_agent_ask(cluster->agent, call, q->timeout_ms, answered, q);
    }
}

/* Waits; the answer is the caller's. */
static int ask(farpool_cluster *cluster, json_t *call, unsigned timeout_ms, json_t **answer)
{
    if (!cluster->threaded)
        return fp_agent_call(cluster->agent, call, timeout_ms, answer);
    fp_question q = {.cluster = cluster, .call = call, .timeout_ms = timeout_ms};
    pthread_mutex_lock(&cluster->lock);
    q.next = cluster->questions;
    cluster->questions = &q;
    wake_talker(cluster);
    while (!q.done)
        (void)fp_cluster_wait_locked(cluster, 0);
    pthread_mutex_unlock(&cluster->lock);
    *answer = q.answer;
    return fp_kept_tell(&q.failed);
}

static void set_text(char to[256], const char *text) { snprintf(to, 256, "%s", text ? text : ""); }

static void copy_text(char to[256], const json_t *object, const char *key)
{
    set_text(to, json_string_value(json_object_get(object, key)));
}

int farpool_cluster_route(farpool_cluster *cluster, const char *partition, unsigned timeout_ms,
                          farpool_route *route)
{
    json_t *answer = NULL;
    const char *state = "", *phase = "";
    json_int_t id = 0, epoch = 0;
    if (!partition || !partition[0])
        return fp_error(FARPOOL_E_INVAL, "route: which partition? Its name or id is missing");
    json_t *call = json_pack("{s:s, s:s}", "method", "route", "partition", partition);
    int rc = ask(cluster, call, timeout_ms ? timeout_ms : ROUTE_MS, &answer);
    if (rc)
        return rc;
    if (json_unpack(answer, "{s:I, s:I, s:s, s:s}", "id", &id, "epoch", &epoch, "state", &state,
                    "phase", &phase) ||
        id <= 0 || epoch < 0) {
        rc = fp_error(FARPOOL_E_PROTO, "route of partition %s: the coordinator's answer is none",
                      partition);
    } else if (!strcmp(state, "deleted")) {
        rc = fp_error(FARPOOL_E_NOTFOUND, "partition %s is deleted", partition);
    } else {
        *route = (farpool_route){.struct_size = sizeof *route,
                                 .id = (uint64_t)id,
                                 .epoch = (uint64_t)epoch,
                                 .read_only = !strcmp(state, "read-only"),
                                 .open = !strcmp(phase, "open") || !strcmp(phase, "changing")};
        copy_text(route->name, answer, "name");
        copy_text(route->owner, answer, "owner");
        copy_text(route->address, answer, "address");
    }
    json_decref(answer);
    return rc;
}

/* ---- threads --------------------------------------------------------------------------------- */

const char *fp_cluster_name(const farpool_cluster *cluster)
{
    const farpool_pool *pool = cluster->pool;
    return pool->auth ? fp_auth_name(pool->auth) : pool->name;
}

struct fp_agent *fp_cluster_agent(farpool_cluster *cluster) { return cluster->agent; }

bool fp_cluster_step(farpool_cluster *cluster)
{
    ask_questions(cluster);
    bool more = fp_agent_step(cluster->agent) != 0;
    bool member = fp_agent_is_member(cluster->agent);
    pthread_mutex_lock(&cluster->lock);
    bool looked = fp_cluster_look_locked(cluster);
    bool tell = cluster->to_tell || looked;
    cluster->to_tell = false;
    if (!member)
        snprintf(cluster->trouble, sizeof cluster->trouble, "%s", fp_agent_trouble(cluster->agent));
    if (member != cluster->connected || looked)
        pthread_cond_broadcast(&cluster->changed);
    cluster->connected = member;
    fp_cluster_forget_locked(cluster);
    pthread_mutex_unlock(&cluster->lock);
    if (tell)
        fp_agent_changed(cluster->agent);
    return more || tell;
}

static bool is_stopped(farpool_cluster *cluster)
{
    pthread_mutex_lock(&cluster->lock);
    bool stop = cluster->stop;
    pthread_mutex_unlock(&cluster->lock);
    return stop;
}

static void *talk(void *arg)
{
    farpool_cluster *cluster = arg;
    struct pollfd fds[] = {{.fd = fp_agent_fd(cluster->agent), .events = POLLIN},
                           {.fd = cluster->wake_fd, .events = POLLIN}};
    while (!is_stopped(cluster)) {
        uint64_t count;
        bool more = fp_cluster_step(cluster);
        if (poll(fds, 2, more ? 0 : LOOK_MS) > 0 && fds[1].revents &&
            read(cluster->wake_fd, &count, sizeof count) < 0)
            continue; /* somebody was faster: that is no loss */
    }
    return NULL;
}

static void *do_work(void *arg)
{
    farpool_cluster *cluster = arg;
    uint64_t again_ns;
    pthread_mutex_lock(&cluster->lock);
    while (!cluster->stop)
        if (!fp_cluster_work_locked(cluster, &again_ns))
            (void)fp_cluster_wait_locked(cluster, again_ns);
    pthread_mutex_unlock(&cluster->lock);
    return NULL;
}

bool fp_cluster_work(farpool_cluster *cluster)
{
    uint64_t again_ns;
    pthread_mutex_lock(&cluster->lock);
    bool done = fp_cluster_work_locked(cluster, &again_ns);
    pthread_mutex_unlock(&cluster->lock);
    return done;
}

static void stop_threads(farpool_cluster *cluster, bool worker)
{
    pthread_mutex_lock(&cluster->lock);
    cluster->stop = true;
    fp_cluster_changed_locked(cluster);
    pthread_mutex_unlock(&cluster->lock);
    pthread_join(cluster->talker, NULL);
    if (worker)
        pthread_join(cluster->worker, NULL);
}

static int start_threads(farpool_cluster *cluster)
{
    cluster->threaded = true;
    int error = fp_spawn(&cluster->talker, talk, cluster);
    if (!error) {
        error = fp_spawn(&cluster->worker, do_work, cluster);
        if (error)
            stop_threads(cluster, false);
    }
    return error ? fp_error(FARPOOL_E_SYS, "joining a cluster: starting its threads: %s",
                            strerror(error))
                 : 0;
}

/* ---- joining and leaving --------------------------------------------------------------------- */

static int check_options(const farpool_cluster_options *options)
{
    if (!options || options->struct_size != sizeof *options)
        return fp_error(FARPOOL_E_INVAL,
                        "cluster options: call farpool_cluster_options_init first (or the program "
                        "was compiled for another version of farpool.h)");
    if (!options->coordinators || !options->coordinators[0])
        return fp_error(FARPOOL_E_INVAL, "cluster options: coordinators are missing: their "
                                         "addresses, as tcp://HOST:PORT[,...]");
    if (!options->timeout_ms)
        return fp_error(FARPOOL_E_INVAL, "cluster options: timeout_ms must not be 0");
    const char *texts[] = {options->zone, options->rack, options->host, options->address};
    for (unsigned i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i] && strlen(texts[i]) > 255)
            return fp_error(FARPOOL_E_INVAL,
                            "cluster options: zone, rack, host and address have at most 255 bytes "
                            "each; '%.40s...' is longer",
                            texts[i]);
    return 0;
}

/* Who this process is. */
static int describe(farpool_cluster *cluster, const farpool_cluster_options *options)
{
    uint64_t boot_id;
    set_text(cluster->zone, options->zone);
    set_text(cluster->rack, options->rack);
    set_text(cluster->host, options->host);
    set_text(cluster->address, options->address);
    if (!cluster->host[0] && gethostname(cluster->host, sizeof cluster->host - 1))
        return fp_error_sys("joining a cluster: the host's name");
    if (getrandom(&boot_id, sizeof boot_id, 0) != sizeof boot_id)
        return fp_error_sys("joining a cluster: a random number");
    snprintf(cluster->boot_id, sizeof cluster->boot_id, "%016" PRIx64, boot_id);
    cluster->standby = options->standby != 0;
    cluster->timeout_ms = options->timeout_ms;
    return 0;
}

/* One cluster for each pool. */
static int take_pool(farpool_pool *pool, farpool_cluster *cluster)
{
    pthread_mutex_lock(&pool->lock);
    bool taken = pool->cluster != NULL;
    if (!taken)
        pool->cluster = cluster;
    pthread_mutex_unlock(&pool->lock);
    return taken ? fp_error(FARPOOL_E_EXISTS, "pool %s has joined a cluster already", pool->name)
                 : 0;
}

static void free_cluster(farpool_cluster *cluster)
{
    farpool_pool *pool = cluster->pool;
    fp_agent_close(cluster->agent);
    while (cluster->assignments) {
        fp_assignment *a = cluster->assignments;
        cluster->assignments = a->next;
        free(a);
    }
    close(cluster->wake_fd);
    fp_lock_close(&cluster->lock, &cluster->changed);
    free(cluster);
    pthread_mutex_lock(&pool->lock);
    pool->cluster = NULL;
    pthread_mutex_unlock(&pool->lock);
}

static int wait_until_member(farpool_cluster *cluster, unsigned join_ms)
{
    uint64_t until = fp_now_ns() + join_ms * 1000000ull;
    pthread_mutex_lock(&cluster->lock);
    bool late = false;
    while (!cluster->connected && !late)
        late = fp_cluster_wait_locked(cluster, until);
    int rc = cluster->connected || !join_ms
                 ? 0
                 : fp_error(FARPOOL_E_TIMEOUT, "%s is no member of the cluster after %u ms: %s",
                            fp_cluster_name(cluster), join_ms, cluster->trouble);
    pthread_mutex_unlock(&cluster->lock);
    return rc;
}

static int open_agent(farpool_cluster *cluster, const char *coordinators)
{
    farpool_pool *pool = cluster->pool;
    fp_agent_config config = {.coordinators = coordinators,
                              .name = fp_cluster_name(cluster),
                              .auth = pool->auth,
                              .net = pool->net_options.world ? &pool->net_options : NULL,
                              .card = fp_cluster_card,
                              .actual = fp_cluster_actual,
                              .duties = fp_cluster_duties,
                              .owner = cluster};
    return fp_agent_open(&config, &cluster->agent);
}

int farpool_cluster_join(farpool_pool *pool, const farpool_cluster_options *options,
                         farpool_cluster **out)
{
    int rc = check_options(options);
    if (rc)
        return rc;
    farpool_cluster *cluster = calloc(1, sizeof *cluster);
    if (!cluster)
        return fp_error(FARPOOL_E_NOMEM, "joining a cluster: no memory for its structure");
    cluster->pool = pool;
    rc = describe(cluster, options);
    if (!rc)
        rc = take_pool(pool, cluster);
    if (rc)
        goto err_after_cluster;
    if (fp_lock_open(&cluster->lock, &cluster->changed)) {
        rc = fp_error(FARPOOL_E_NOMEM, "joining a cluster: no memory for a lock");
        goto err_after_pool;
    }
    cluster->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (cluster->wake_fd < 0) {
        rc = fp_error_sys("joining a cluster: eventfd");
        goto err_after_lock;
    }
    rc = open_agent(cluster, options->coordinators);
    if (!rc && !pool->net_options.world)
        rc = start_threads(cluster);
    if (rc)
        goto err_after_fd;
    rc = cluster->threaded ? wait_until_member(cluster, options->join_ms) : 0;
    if (rc) {
        stop_threads(cluster, true);
        goto err_after_fd;
    }
    *out = cluster;
    return 0;
err_after_fd:
    free_cluster(cluster);
    return rc;
err_after_lock:
    fp_lock_close(&cluster->lock, &cluster->changed);
err_after_pool:
    pthread_mutex_lock(&pool->lock);
    pool->cluster = NULL;
    pthread_mutex_unlock(&pool->lock);
err_after_cluster:
    free(cluster);
    return rc;
}

int farpool_cluster_leave(farpool_cluster *cluster)
{
    int rc = 0;
    pthread_mutex_lock(&cluster->lock);
    bool connected = cluster->connected;
    for (const fp_assignment *a = cluster->assignments; a && !rc; a = a->next)
        if (a->partition || a->state == FP_OPENING || a->state == FP_CLOSING)
            rc = fp_error(FARPOOL_E_BUSY, "leaving the cluster: partition %llu is still open",
                          (unsigned long long)a->duty.id);
    pthread_mutex_unlock(&cluster->lock);
    if (rc)
        return rc;
    json_t *answer = NULL;
    if (connected && ask(cluster, json_pack("{s:s}", "method", "leave"), LEAVE_MS, &answer))
        fp_log(FP_LOG_DEBUG, "%s leaves untold: %s", cluster->pool->name, farpool_errmsg());
    json_decref(answer);
    if (cluster->threaded)
        stop_threads(cluster, true);
    free_cluster(cluster);
    return 0;
}
