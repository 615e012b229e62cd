/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/teststorage.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/log.h"
#include "tests/lib/require.h"
#include "tests/lib/secret.h"

/* ---- on a directory -------------------------------------------------------------------------- */

struct test_storage {
    fp_storagenode *node; /* the thread's while it runs */
    char uri[FP_NET_URI_MAX];
    pthread_t thread;
    int stop_fd;
};

void test_volume_make(char path[256])
{
    const char *build = getenv("FARPOOL_BUILD");
    snprintf(path, 256, "%s/farpool-volume-XXXXXX", build ? build : "build");
    REQUIRE(mkdtemp(path));
}

void test_volume_remove(const char *path)
{
    char name[1024];
    DIR *dir = opendir(path);
    REQUIRE(dir);
    for (const struct dirent *entry; (entry = readdir(dir));) {
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        REQUIRE(entry->d_name[0] == '.' || !unlink(name));
    }
    closedir(dir);
    REQUIRE(!rmdir(path));
}

bool test_storage_possible(void)
{
    fp_disk *disk;
    int rc = fp_disk_open("/", NULL, &disk);
    if (!rc)
        fp_disk_close(disk);
    return rc != FARPOOL_E_UNSUPPORTED;
}

static void *serve(void *arg)
{
    test_storage *storage = arg;
    int fds[FP_STORAGENODE_FDS_MAX];
    struct pollfd polls[FP_STORAGENODE_FDS_MAX + 1];
    unsigned count = fp_storagenode_fds(storage->node, fds);
    for (unsigned i = 0; i < count; i++)
        polls[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
    polls[count] = (struct pollfd){.fd = storage->stop_fd, .events = POLLIN};
    for (;;) {
        int more = fp_storagenode_step(storage->node);
        test_must(more < 0 ? more : 0, "serving");
        if (poll(polls, count + 1, more ? 0 : -1) > 0 && polls[count].revents)
            return NULL;
    }
}

test_storage *test_storage_start(const char *scheme, const char *volume)
{
    return test_storage_start_converting(scheme, volume, 0);
}

test_storage *test_storage_start_converting(const char *scheme, const char *volume,
                                            uint64_t convert_bytes)
{
    static _Atomic unsigned number;
    char uri[FP_NET_URI_MAX];
    fp_log_set_level(FP_LOG_ERROR);
    if (!strcmp(scheme, "shm"))
        snprintf(uri, sizeof uri, "shm:///tmp/farpool-storage-%d-%u.sock", (int)getpid(), ++number);
    else
        snprintf(uri, sizeof uri, "%s://%s:0", scheme,
                 !strcmp(scheme, "verbs") ? "10.77.0.1" : "127.0.0.1");
    return test_storage_start_as(uri, volume,
                                 &(fp_storagenode_config){.convert_bytes = convert_bytes});
}

test_storage *test_storage_start_at(const char *uri, const char *volume)
{
    return test_storage_start_as(uri, volume, &(fp_storagenode_config){0});
}

test_storage *test_storage_start_as(const char *uri, const char *volume,
                                    const fp_storagenode_config *options)
{
    const char *bound;
    test_storage *storage = calloc(1, sizeof *storage);
    test_must(storage ? 0 : FARPOOL_E_NOMEM, "storage node");
    fp_storagenode_config config = *options;
    config.name = "teststorage";
    config.volume = volume;
    config.segment_bytes = TEST_SEGMENT_BYTES;
    config.auth = test_secret_auth();
    test_must(fp_storagenode_open(&config, &storage->node), "opening a storage node");
    test_must(fp_storagenode_listen(storage->node, uri, NULL, &bound), "listening");
    snprintf(storage->uri, sizeof storage->uri, "%s", bound);
    storage->stop_fd = eventfd(0, EFD_CLOEXEC);
    test_must(storage->stop_fd < 0 ? FARPOOL_E_SYS : 0, "eventfd");
    test_must(pthread_create(&storage->thread, NULL, serve, storage) ? FARPOOL_E_SYS : 0, "thread");
    return storage;
}

const char *test_storage_uri(const test_storage *storage) { return storage->uri; }

uint64_t test_storage_volume_id(const test_storage *storage)
{
    return fp_storagenode_volume_id(storage->node); /* never changes */
}

void test_storage_stop(test_storage *storage)
{
    uint64_t one = 1;
    test_must(write(storage->stop_fd, &one, sizeof one) == sizeof one ? 0 : FARPOOL_E_SYS,
              "stopping");
    pthread_join(storage->thread, NULL);
    fp_storagenode_close(storage->node);
    close(storage->stop_fd);
    free(storage);
}

/* ---- simulated ------------------------------------------------------------------------------- */

enum { SIM_CONVERT_BYTES = 128 << 10 };

/* Not from within itself: time may pass while it looks. */
static void drive(void *arg)
{
    sim_storage *s = arg;
    int more = 0;
    if (s->driven || !s->serves || fp_sim_now_ns(s->world) < s->paused_until_ns)
        return;
    s->driven = true;
    while ((more = fp_storagenode_step(s->node)) > 0)
        ;
    s->driven = false;
    test_must(more, "a step");
    if (s->again) {
        s->again = false;
        sim_storage_restart(s);
    }
}

static void start(sim_storage *s)
{
    fp_disk_options disk = {.medium = s->medium};
    fp_net_options net = {.world = s->world};
    fp_storagenode_config config = {.name = s->uri + strlen("sim://"),
                                    .volume = s->uri + strlen("sim://"),
                                    .disk_options = &disk,
                                    .segment_bytes = TEST_SEGMENT_BYTES,
                                    .boot_id = s->boot_id,
                                    .volume_id = s->volume_id,
                                    .peers = &s->peer,
                                    .peer_count = s->peer ? 1 : 0,
                                    .peer_net = &s->peer_net,
                                    .in_cluster = s->in_cluster,
                                    .auth = s->auth,
                                    .convert_bytes = (s->peer || s->in_cluster) && !s->convert_bytes
                                                         ? SIM_CONVERT_BYTES
                                                         : s->convert_bytes};
    s->peer_net = (fp_net_options){.world = s->world, .node = s->uri + strlen("sim://")};
    const char *bound;
    int rc;
    s->opening = true;
    while ((rc = fp_storagenode_open(&config, &s->node), s->lost)) {
        /* Its power has failed meanwhile, and perhaps it was to be restarted meanwhile. */
        if (!rc)
            fp_storagenode_close(s->node);
        s->node = NULL;
        s->lost = !s->again;
        s->again = false;
        if (s->lost)
            break;
        config.boot_id = ++s->boot_id;
    }
    s->opening = false;
    if (s->lost)
        return;
    test_must(rc, "opening a storage node");
    test_must(fp_storagenode_listen(s->node, s->uri, &net, &bound), "listening");
    fp_sim_set_driver(fp_storagenode_poller(s->node, 0), drive, s);
    fp_disk_sim_set_driver(fp_storagenode_disk(s->node), drive, s);
    s->serves = true;
    drive(s); /* begins what opening has submitted */
}

void sim_storage_open_converting(sim_storage *s, fp_sim_world *world, unsigned number,
                                 uint64_t convert_bytes)
{
    static const fp_disk_sim_config plain = {0};
    *s = (sim_storage){.world = world,
                       .boot_id = number * 1000 + 1,
                       .volume_id = number + 1,
                       .convert_bytes = convert_bytes};
    snprintf(s->uri, sizeof s->uri, "sim://storage%u", number);
    test_must(fp_disk_medium_open(world, &plain, &s->medium), "a medium");
    start(s);
}

void sim_storage_open(sim_storage *s, fp_sim_world *world, unsigned number)
{
    sim_storage_open_converting(s, world, number, 0);
}

void sim_storage_close(sim_storage *s)
{
    s->serves = false;
    fp_storagenode_close(s->node);
    fp_disk_medium_close(s->medium);
}

void sim_storage_step(sim_storage *s)
{
    if (s->serves && !s->lost)
        drive(s);
}

void sim_storage_lose_volume(sim_storage *s)
{
    static const fp_disk_sim_config plain = {0};
    s->serves = false;
    fp_storagenode_close(s->node);
    s->node = NULL;
    fp_disk_medium_close(s->medium);
    s->volume_id += 1000;
    test_must(fp_disk_medium_open(s->world, &plain, &s->medium), "a medium");
}

void sim_storage_crash(void *arg)
{
    sim_storage *s = arg;
    s->lost = true;
    fp_sim_crash(s->world, s->uri + strlen("sim://"));
    fp_disk_sim_crash(s->medium);
}

void sim_storage_restart(sim_storage *s)
{
    if (s->opening || s->driven) { /* by a caller of ours: it comes back to this */
        s->again = true;
        return;
    }
    s->serves = false;
    fp_storagenode_close(s->node);
    s->node = NULL;
    s->boot_id++;
    s->paused_until_ns = 0;
    s->lost = false;
    start(s);
}
