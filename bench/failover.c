/* SPDX-License-Identifier: Apache-2.0 */
/*
 * failover: how long nobody's commits are acknowledged when the owner of a partition is killed (-9), until the first one
 * of the next owner, and where that time goes; and the longest pause of commits when a memory node with a log ring is
 * killed, until another one has taken its place. A cluster of processes on this machine with its default settings:
 * three coordinators on three members of etcd (an SQLite file where it is not installed), four memory, three storage and
 * three compute nodes. --transport: tcp or shm.
 */
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench/lib/owner.h"
#include "bench/lib/report.h"
#include "common/clock.h"

enum {
    COMPUTES = 3,
    NODES = 4 + 3 + COMPUTES,
    COMPUTE_ROUNDS = 40,
    MEMORY_ROUNDS = 20,
    ROUNDS_MAX = 1000,
    CALM_COMMITS = 2000, /* between two rounds */
    DEADLINE_S = 60,
};

/* A compute failover, in ms. Until the coordinators take the owner for lost; until both of their decisions are kept, and the
 * next owner is told; until enough rings know its epoch, between the two decisions; until it has the partition open. Of
 * the middle ones whole milliseconds only are known. */
enum part { DETECT, DECIDE, FENCE, RECOVER, FIRST_COMMIT, PARTS };
static const char *const part_names[PARTS] = {"detect", "decide", "fence", "recover",
                                              "first_commit"};

static char top[PATH_MAX], dir[PATH_MAX];
static bench_owner_notes *notes;
static struct {
    double ms[ROUNDS_MAX];
    unsigned count;
} total, part_ms[PARTS], loss, change, stall;

static void add(typeof(total) *times, double ms) { times->ms[times->count++] = ms; }

static int compare_ms(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank. */
static double percentile(typeof(total) *times, double p)
{
    qsort(times->ms, times->count, sizeof times->ms[0], compare_ms);
    return times->ms[(unsigned)ceil(p * times->count) - 1];
}

/* ---- the cluster --------------------------------------------------------------------------------- */

static void fail(const char *what)
{
    fprintf(stderr, "failover: %s; see the logs in %s\n", what, dir);
    exit(1);
}

static FILE *run(const char *format, ...) __attribute__((format(printf, 1, 2)));
static FILE *run(const char *format, ...)
{
    char command[4 * PATH_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    FILE *pipe = popen(command, "r");
    if (!pipe)
        fail("no pipe");
    return pipe;
}

/* scripts/cluster, which has to succeed. */
static void cluster(const char *arguments)
{
    if (pclose(run("%s/scripts/cluster --dir %s/cluster %s >/dev/null", top, dir, arguments)))
        fail("scripts/cluster failed");
}

static int guard_fd;

/* Whatever becomes of this process, nothing of the cluster stays but, if it does not end well, logs. Returns what is to be
 * written to, if it does. */
static int guard(void)
{
    int fds[2];
    bool good = false;
    char byte, *command;
    pid_t pid = pipe2(fds, O_CLOEXEC) ? -1 : fork();
    if (pid < 0)
        fail("no guard");
    if (pid) {
        close(fds[0]);
        return fds[1]; /* open as long as this process lives */
    }
    setsid();
    close(fds[1]);
    while (read(fds[0], &byte, 1) > 0)
        good = true;
    if (asprintf(&command, "%s/scripts/cluster --dir %s/cluster down >/dev/null 2>&1; %s %s", top,
                 dir, good ? "rm -rf" : ":", dir) > 0)
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(1);
}

static json_t *status(void)
{
    FILE *pipe = run("%s/build/farpoolctl --timeout 1000 -o json status 2>/dev/null", top);
    json_t *json = json_loadf(pipe, 0, NULL);
    pclose(pipe);
    return json;
}

/* The partition of a status in which all nodes are up and nothing waits for anything, else NULL. */
static const json_t *calm_partition(const json_t *json)
{
    const json_t *item, *part = json_array_get(json_object_get(json, "partitions"), 0);
    const char *phase = json_string_value(json_object_get(part, "phase"));
    size_t i, up = 0;
    json_array_foreach(json_object_get(json, "nodes"), i, item) up +=
        json_is_true(json_object_get(item, "up"));
    return up == NODES && phase && !strcmp(phase, "open") &&
                   !json_array_size(json_object_get(json, "stalled"))
               ? part
               : NULL;
}

static bench_owner *owner_named(const char *name)
{
    return &notes->owners[strtoul(name + strlen("comp"), NULL, 10)];
}

/* Waits until all is as it should be, and commits have gone on for a while; copies the partition's owner and one of its
 * memory nodes. */
static void wait_calm(char owner[64], char memnode[64], unsigned number)
{
    uint64_t begin = fp_now_ns(), commits = 0;
    for (bool calm = false; !calm; usleep(20000)) {
        json_t *json = status();
        const json_t *part = calm_partition(json), *nodes = json_object_get(part, "memnodes");
        if (part) {
            snprintf(owner, 64, "%s", json_string_value(json_object_get(part, "owner")));
            snprintf(memnode, 64, "%s",
                     json_string_value(json_array_get(nodes, number % json_array_size(nodes))));
            uint64_t now = atomic_load(&owner_named(owner)->commits);
            commits = commits ? commits : now + 1;
            calm = now > commits + CALM_COMMITS;
        }
        json_decref(json);
        if (fp_now_ns() - begin > DEADLINE_S * 1000000000ull)
            fail("the cluster does not become calm");
    }
}

/* ---- events of the coordinators ------------------------------------------------------------------ */

static FILE *events;

static void open_events(void)
{
    events =
        run("exec setpriv --pdeathsig TERM %s/build/farpoolctl -o json events --follow 2>/dev/null",
            top);
}

/* Waits for the next event of that kind; when it was decided (CLOCK_REALTIME, ms). */
static double next_event(const char *kind)
{
    char line[4096];
    while (fgets(line, sizeof line, events)) {
        json_t *event = json_loads(line, 0, NULL);
        const char *is = json_string_value(json_object_get(event, "kind"));
        bool found = is && !strcmp(is, kind);
        double at_ms = (double)json_integer_value(json_object_get(event, "time_ms"));
        json_decref(event);
        if (found)
            return at_ms;
    }
    fail("farpoolctl events has ended");
    return 0;
}

/* When the last event of that kind was kept in the metastore (CLOCK_REALTIME, ms): the coordinators' logs have it. */
static double kept_ms(const char *kind)
{
    struct tm tm = {0};
    int ms = 0;
    FILE *pipe = run("grep -h ' info: %s: ' %s/cluster/coord*/log | sort | tail -n 1", kind, dir);
    if (fscanf(pipe, "%d-%d-%dT%d:%d:%d.%d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
               &tm.tm_min, &tm.tm_sec, &ms) != 7)
        fail("the coordinators' logs do not tell of it");
    pclose(pipe);
    tm.tm_year -= 1900;
    tm.tm_mon--;
    return (double)timegm(&tm) * 1e3 + ms;
}

static double real_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* ---- rounds -------------------------------------------------------------------------------------- */

static double ms_between(uint64_t from, uint64_t to) { return ((double)to - (double)from) / 1e6; }

/* The one who has begun to write after that; waits for it. */
static bench_owner *next_owner(uint64_t since_ns)
{
    while (fp_now_ns() - since_ns < DEADLINE_S * 1000000000ull) {
        for (unsigned i = 1; i <= COMPUTES; i++) {
            if (atomic_load(&notes->owners[i].first_ns) > since_ns)
                return &notes->owners[i];
        }
        usleep(1000);
    }
    fail("nobody takes the partition over");
    return NULL;
}

static void kill_owner(unsigned round)
{
    char owner[64], memnode[64], command[100];
    wait_calm(owner, memnode, round);
    double real = real_ms();
    uint64_t killed = fp_now_ns();
    kill(atomic_load(&owner_named(owner)->pid), SIGKILL);
    double decided = next_event("failover"), fenced = next_event("fenced");
    bench_owner *next = next_owner(killed);
    uint64_t opened = atomic_load(&next->opened_ns), first = atomic_load(&next->first_ns);
    add(&total, ms_between(killed, first));
    uint64_t assigned = atomic_load(&next->assigned_ns);
    double kept = kept_ms("failover");
    add(&part_ms[DETECT], decided - real);
    add(&part_ms[DECIDE], kept - decided + real + ms_between(killed, assigned) - fenced);
    add(&part_ms[FENCE], fenced - kept);
    add(&part_ms[RECOVER], ms_between(assigned, opened));
    add(&part_ms[FIRST_COMMIT], ms_between(opened, first));
    bench_progress("  owner %u: %.0f ms", round + 1, ms_between(killed, first));
    snprintf(command, sizeof command, "start %s", owner);
    cluster(command);
}

/* The longest pause of a thread's commits since this was asked last, the one that is under way included. */
static double longest_pause_ms(bench_owner *owner)
{
    uint64_t longest = 0;
    for (unsigned i = 0; i < BENCH_OWNER_THREADS; i++) {
        uint64_t last = atomic_load(&owner->last_ns[i]), now = fp_now_ns() - last;
        uint64_t before = atomic_exchange(&owner->pause_ns[i], 0);
        longest = now > longest ? now : longest;
        longest = before > longest ? before : longest;
    }
    return (double)longest / 1e6;
}

static void kill_memory_node(unsigned round)
{
    char owner[64], memnode[64], command[100];
    wait_calm(owner, memnode, round);
    bench_owner *self = owner_named(owner);
    (void)longest_pause_ms(self);
    snprintf(command, sizeof command, "kill %s", memnode);
    cluster(command);
    (void)next_event("change");
    double lost_ms = longest_pause_ms(self);
    (void)next_event("changed");
    double changed_ms = longest_pause_ms(self);
    add(&loss, lost_ms);
    add(&change, changed_ms);
    add(&stall, lost_ms > changed_ms ? lost_ms : changed_ms);
    bench_progress("  memory node %u: %.1f ms, %.1f ms when another one took its place", round + 1,
                   lost_ms, changed_ms);
    snprintf(command, sizeof command, "start %s", memnode);
    cluster(command);
}

static unsigned rounds_of(const bench_options *options, unsigned rounds)
{
    double n = rounds * options->scale;
    return n < 1 ? 1 : n > ROUNDS_MAX ? ROUNDS_MAX : (unsigned)n;
}

static void up(const bench_options *options)
{
    char self[PATH_MAX] = "", arguments[4 * PATH_MAX];
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0)
        fail("/proc/self/exe");
    snprintf(top, sizeof top, "%s/../..", dirname(self));
    snprintf(dir, sizeof dir, "%s/farpool-bench-XXXXXX",
             getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(dir))
        fail("no directory could be made");
    guard_fd = guard();
    snprintf(arguments, sizeof arguments, "%s/notes", dir);
    notes = bench_owner_map(arguments);
    bool etcd = !system("command -v etcd >/dev/null");
    snprintf(arguments, sizeof arguments,
             "up --transport %s --memnodes 4 --computes %d %s --compute '%s/build/bench/failover "
             "worker --notes %s/notes'",
             options->transport, COMPUTES, etcd ? "--etcd" : "", top, dir);
    cluster(arguments);
    char path[PATH_MAX + 32], coordinators[1000] = "";
    snprintf(path, sizeof path, "%s/cluster/coordinators", dir);
    FILE *file = fopen(path, "r");
    if (!file || !fgets(coordinators, sizeof coordinators, file))
        fail("no coordinators");
    fclose(file);
    coordinators[strcspn(coordinators, "\n")] = 0;
    setenv("FARPOOL_COORDINATORS", coordinators, 1);
    if (pclose(
            run("%s/build/farpoolctl partition create p --slab 64m --wait >/dev/null 2>&1", top)))
        fail("no partition could be created");
    open_events();
}

int main(int argc, char **argv)
{
    bench_options options;
    if (argc > 1 && !strcmp(argv[1], "worker"))
        bench_owner_run(argc, argv);
    bench_parse(argc, argv, "how long commits pause when nodes are killed", &options);
    up(&options);
    for (unsigned i = 0; i < rounds_of(&options, COMPUTE_ROUNDS); i++)
        kill_owner(i);
    bench_add("ms", percentile(&total, 0.5), "failover.compute_p50_ms");
    bench_add("ms", percentile(&total, 0.99), "failover.compute_p99_ms");
    for (unsigned i = 0; i < PARTS; i++)
        bench_add("ms", percentile(&part_ms[i], 0.5), "failover.%s_p50_ms", part_names[i]);
    for (unsigned i = 0; i < rounds_of(&options, MEMORY_ROUNDS); i++)
        kill_memory_node(i);
    bench_add("ms", percentile(&loss, 0.5), "failover.memnode_loss_p50_ms");
    bench_add("ms", percentile(&change, 0.5), "failover.memnode_change_p50_ms");
    bench_add("ms", percentile(&stall, 0.5), "failover.memnode_stall_p50_ms");
    bench_add("ms", percentile(&stall, 0.99), "failover.memnode_stall_p99_ms");
    bench_print(&options, "failover");
    return write(guard_fd, "", 1) != 1;
}
