/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/lib/node.h"

#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "compute/cli/nodes.h"

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* The programs stand one directory above the benchmarks. */
static void exec_node(const char *program, const char *listen, const char *const *options,
                      int ready_fd)
{
    enum { ARGS_MAX = 16 };
    char self[PATH_MAX] = "", path[PATH_MAX + 64], fd[16];
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        fail("bench: /proc/self/exe");
    snprintf(path, sizeof path, "%s/../%s", dirname(self), program);
    snprintf(fd, sizeof fd, "%d", ready_fd);
    const char *args[ARGS_MAX] = {path, "--listen",    listen, "--ready-fd",
                                  fd,   "--log-level", "error"};
    for (unsigned i = 7; i < ARGS_MAX - 1 && *options; i++)
        args[i] = *options++;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    execv(path, (char *const *)args);
    fail(path);
}

/* options: of the program, after which comes NULL. */
static void start(bench_node *node, const char *transport, const char *program,
                  const char *const *options)
{
    char listen[256];
    int fds[2];
    static unsigned started;
    if (!strcmp(transport, "shm"))
        snprintf(listen, sizeof listen, "shm:///tmp/farpool-bench-%d-%u.sock", (int)getpid(),
                 ++started);
    else /* verbs: the address that scripts/rxe-vm gives its RDMA device, unless told otherwise */
        snprintf(listen, sizeof listen, "%s://%s:0", transport,
                 getenv("FARPOOL_BENCH_HOST")      ? getenv("FARPOOL_BENCH_HOST")
                 : strcmp(transport, "verbs") == 0 ? "10.77.0.1"
                                                   : "127.0.0.1");
    if (pipe(fds))
        fail("bench: pipe");
    node->pid = fork();
    if (node->pid < 0)
        fail("bench: fork");
    if (!node->pid) {
        close(fds[0]);
        exec_node(program, listen, options, fds[1]);
    }
    close(fds[1]);
    FILE *ready = fdopen(fds[0], "r");
    json_t *json = ready ? json_loadf(ready, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    const char *uri = json_string_value(json_array_get(json_object_get(json, "listen"), 0));
    if (!uri) {
        fprintf(stderr, "bench: %s did not start\n", program);
        exit(1);
    }
    snprintf(node->uri, sizeof node->uri, "%s", uri);
    json_decref(json);
    fclose(ready);
}

void bench_node_start(bench_node *node, const char *transport, uint64_t bytes, const char *storage)
{
    char memory[32];
    snprintf(memory, sizeof memory, "%lluk", (unsigned long long)(bytes >> 10));
    const char *options[] = {"--memory", memory, storage ? "--storage" : NULL, storage, NULL};
    start(node, transport, "farpool-memnode", options);
}

void bench_storage_start(bench_node *node, const char *transport, const char *volume)
{
    const char *options[] = {"--volume", volume, NULL};
    start(node, transport, "farpool-storagenode", options);
}

void bench_node_stop(bench_node *node)
{
    kill(node->pid, SIGTERM);
    waitpid(node->pid, NULL, 0);
}

double bench_node_cpu_seconds(const bench_node *node)
{
    char path[64];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)node->pid);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                        &user, &system) != 2)
        fail("bench: CPU time of a node");
    fclose(file);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

uint64_t bench_node_written_bytes(const bench_node *node)
{
    char path[64], line[128];
    unsigned long long bytes;
    snprintf(path, sizeof path, "/proc/%d/io", (int)node->pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "write_bytes: %llu", &bytes) == 1) {
            fclose(file);
            return bytes;
        }
    fail("bench: what a node has written");
    return 0;
}

uint64_t bench_node_lag(const bench_node *node)
{
    static fp_msg msg; /* large for a stack */
    bench_check(cli_node_usage(node->uri, NULL, &msg), "asking a node");
    return msg.usage.spill_lag;
}

static void tick(void)
{
    enum { TICK_MS = 10 };
    struct timespec time = {.tv_nsec = TICK_MS * 1000000};
    nanosleep(&time, NULL);
}

double bench_node_catch_up(const bench_node *node)
{
    enum { CONVERT_BYTES = 16 << 20 };
    uint64_t began = fp_now_ns();
    while (bench_node_lag(node) >= CONVERT_BYTES)
        tick();
    return (double)(fp_now_ns() - began) / 1e9;
}

double bench_node_rest(const bench_node *node)
{
    enum { QUIET_TICKS = 100 };
    double seconds = bench_node_catch_up(node);
    uint64_t before = 0;
    for (unsigned quiet = 0; quiet < QUIET_TICKS; quiet++) {
        uint64_t now = bench_node_written_bytes(node);
        if (now != before)
            quiet = 0;
        before = now;
        tick();
    }
    return seconds;
}

static enum farpool_mapping mapping_of(const bench_options *options)
{
    if (!strcmp(options->mapping, "vm"))
        return FARPOOL_MAPPING_VM;
    if (!strcmp(options->mapping, "frames"))
        return FARPOOL_MAPPING_FRAMES;
    fprintf(stderr, "bench: mapping '%s' is neither frames nor vm\n", options->mapping);
    exit(2);
}

static void open_both(const bench_options *options, uint64_t pool_bytes, farpool_pool **pool,
                      const farpool_partition_options *partition_options,
                      farpool_partition **partition)
{
    farpool_pool_options pool_options;
    farpool_pool_options_init(&pool_options);
    pool_options.pool_bytes = pool_bytes;
    pool_options.mapping = mapping_of(options);
    bench_check(farpool_pool_open(&pool_options, pool), "opening a pool");
    bench_check(farpool_partition_open(*pool, partition_options, partition), "opening a partition");
}

void bench_pool_open(const bench_options *options, const bench_node *node, uint64_t pool_bytes,
                     uint64_t slab_bytes, farpool_pool **pool, farpool_partition **partition)
{
    farpool_partition_options partition_options;
    const char *uris[] = {node->uri};
    farpool_partition_options_init(&partition_options);
    partition_options.memnodes = uris;
    partition_options.memnode_count = 1;
    partition_options.slab_bytes = slab_bytes;
    open_both(options, pool_bytes, pool, &partition_options, partition);
}

void bench_log_open(const bench_options *options, const bench_node *nodes, unsigned count,
                    uint64_t epoch, uint64_t slab_bytes, uint64_t ring_bytes, farpool_pool **pool,
                    farpool_partition **partition)
{
    enum { NODES_MAX = 8, POOL_BYTES = 64 << 20 };
    farpool_partition_options partition_options;
    const char *uris[NODES_MAX];
    for (unsigned i = 0; i < count; i++)
        uris[i] = nodes[i].uri;
    farpool_partition_options_init(&partition_options);
    partition_options.epoch = epoch;
    partition_options.memnodes = uris;
    partition_options.memnode_count = partition_options.log_copies = count;
    partition_options.slab_bytes = slab_bytes;
    partition_options.log_ring_bytes = ring_bytes;
    partition_options.recover = epoch > 1;
    open_both(options, POOL_BYTES, pool, &partition_options, partition);
}

void bench_pool_close(farpool_pool *pool, farpool_partition *partition)
{
    bench_check(farpool_partition_close(partition), "closing the partition");
    bench_check(farpool_pool_close(pool), "closing the pool");
}
