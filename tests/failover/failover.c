/* SPDX-License-Identifier: Apache-2.0 */
/* test-timeout: 600
 *
 * Shows that a cluster of real processes goes on whichever node fails, and loses nothing that it has acknowledged: three
 * coordinators on three members of etcd, memory, storage and compute nodes, each in a network of its own. Round after
 * round a node of some role, often the one that has something to do, is killed (-9) and started again, is stopped for a
 * while (SIGSTOP), or has its cable pulled; sometimes the leading coordinator at the same time. Or the partition is moved,
 * or a node drained. In each round, by a deadline:
 *
 *   - commits go on, by another owner if the owner was hit
 *   - an owner that was only away finds out: its writing ends with E_FENCED, and it closes the partition
 *   - when the node is back all of the cluster is as it should be
 *   - all that was acknowledged is there (tests/lib/failover.h), and no epoch had two owners
 *
 * ROUNDS=n and SEED=n; LIMIT_S=n: no round begins later than that (60, or none if ROUNDS is given); ROLE=name: of nodes
 * of that role only. VERBS=address: over an RDMA device of this machine, which all nodes share, so no cable is pulled; and
 * all of it may be ten times slower.
 */
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/lib/etcd.h"
#include "tests/lib/failover.h"
#include "tests/lib/require.h"
#include "tests/lib/testnode.h"

enum {
    MEMNODES = 4,
    STORAGENODES = 3,
    COORDINATORS = 3,
    COMPUTES = 3,
    ETCDS = 3,
    LIMIT_S = 60,
    DEADLINE_S = 240, /* for everything that is waited for */
    ACKS = 300,       /* a round's worth of commits */
    AWAY_MS = 6000,   /* at most; others are put in the place of memory and storage nodes earlier */
    REST_US = 20000, /* of a writer between commits in the emulator, whose processors others need */
    LONG_S = 5,      /* a wait of which it is said how long it was */
};

static char dir[300], coordinators[1000];
static const char *build, *verbs;
static unsigned slower = 1; /* times */
static failover_notes *notes;
static uint64_t random_state;

static uint64_t draw(uint64_t below) { return test_random(&random_state) % below; }
/* The emulator may be far behind. */
static unsigned deadline_s(void) { return verbs ? 4 * DEADLINE_S : DEADLINE_S; }
static double seconds_since(uint64_t ns) { return (double)(fp_now_ns() - ns) / 1e9; }

/* ---- the cluster --------------------------------------------------------------------------------- */

static int shell(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *format, ...)
{
    char command[2000];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    int status = system(command);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* scripts/cluster, which has to succeed. */
static void cluster(const char *command, const char *node)
{
    if (shell("scripts/cluster --dir %s %s %s", dir, command, node)) {
        fprintf(stderr, "scripts/cluster %s %s failed\n", command, node);
        exit(1);
    }
}

/* Whatever becomes of this process, nothing of the cluster stays. */
static void guard(void)
{
    int fds[2];
    REQUIRE(!pipe2(fds, O_CLOEXEC));
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid) {
        close(fds[0]);
        return; /* fds[1] stays open as long as this process lives */
    }
    char byte;
    setsid();
    signal(SIGTERM, SIG_IGN);
    close(fds[1]);
    while (read(fds[0], &byte, 1) > 0)
        ;
    _exit(shell("scripts/cluster --dir %s down >/dev/null 2>&1; rm -f %s.notes", dir, dir));
}

static void up(void)
{
    char path[330], line[1500];
    snprintf(dir, sizeof dir, "%s/failover-%d", build, (int)getpid());
    snprintf(path, sizeof path, "%s.notes", dir);
    notes = failover_map(path, true);
    guard();
    snprintf(line, sizeof line,
             "up %s%s --etcd --memnodes %d --storagenodes %d --coordinators %d --computes %d "
             "--memory 96m --compute '%s/tests/failover/failover worker --notes %s --rest-us %d' "
             "--coordinator-option 'grace-ms %u' "
             "--coordinator-option 'lost-ms %u' --coordinator-option 'replace-ms %u' "
             "--coordinator-option 'replace-storage-ms %u' >%s.notes.up",
             verbs ? "--transport verbs:" : "--isolate", verbs ? verbs : "", MEMNODES, STORAGENODES,
             COORDINATORS, COMPUTES, build, path, verbs ? REST_US : 0, 300 * slower, 1000 * slower,
             1500 * slower, 2500 * slower, dir);
    cluster(line, "");
    snprintf(path, sizeof path, "%s/coordinators", dir);
    FILE *file = fopen(path, "r");
    REQUIRE(file && fgets(coordinators, sizeof coordinators, file));
    fclose(file);
    coordinators[strcspn(coordinators, "\n")] = 0;
    shell("rm -f %s.notes.up", dir);
    setenv("FARPOOL_COORDINATORS", coordinators, 1);
}

/* What farpoolctl says about the cluster; NULL: nothing. */
static json_t *look(void)
{
    char command[400];
    snprintf(command, sizeof command, "%s/farpoolctl --timeout %u -o json status 2>/dev/null",
             build, 5000 * slower);
    FILE *pipe = popen(command, "r");
    REQUIRE(pipe);
    json_t *status = json_loadf(pipe, 0, NULL);
    pclose(pipe);
    return status;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* ---- waiting ------------------------------------------------------------------------------------- */

static void complain(const char *what)
{
    fprintf(stderr, "not within %u s: %s\n", deadline_s(), what);
    shell("%s/farpoolctl --timeout 2000 status >&2; %s/farpoolctl --timeout 2000 events | tail -40 "
          ">&2; scripts/cluster --dir %s status >&2; tail -n 15 %s/[cms]*/log >&2",
          build, build, dir, dir);
    exit(1);
}

static void wait_for(const char *what, bool (*is_true)(uint64_t arg), uint64_t arg,
                     unsigned pause_us)
{
    uint64_t begin = fp_now_ns();
    while (!is_true(arg)) {
        if (seconds_since(begin) > deadline_s())
            complain(what);
        usleep(pause_us);
    }
    if (seconds_since(begin) > LONG_S)
        printf("   %s: %.1f s\n", what, seconds_since(begin));
}

static bool has_acked(uint64_t acks) { return atomic_load(&notes->acks) >= acks; }

/* Somebody else than that owner has had commits acknowledged. */
static bool has_other_owner(uint64_t before)
{
    failover_owner *last = failover_last(notes);
    return last && (uint64_t)(last - notes->owner) != before && atomic_load(&last->acks) >= 20;
}

static bool has_closed(uint64_t owner) { return atomic_load(&notes->owner[owner].closed); }

/* All nodes are up, all partitions open, and nothing waits for anything. */
static bool is_calm(uint64_t unused)
{
    (void)unused;
    json_t *status = look(), *item;
    size_t i, up = 0;
    bool calm = status && !json_array_size(json_object_get(status, "stalled")) &&
                json_array_size(json_object_get(status, "partitions")) == 1;
    json_array_foreach(json_object_get(status, "nodes"), i, item) up +=
        json_is_true(json_object_get(item, "up"));
    json_array_foreach(json_object_get(status, "partitions"), i, item) calm =
        calm && !strcmp(text_of(item, "phase"), "open");
    json_decref(status);
    return calm && up == MEMNODES + STORAGENODES + COMPUTES;
}

static void go_on(const char *what)
{
    wait_for(what, has_acked, atomic_load(&notes->acks) + ACKS, 1000);
}

/* ---- rounds -------------------------------------------------------------------------------------- */

enum role { COMPUTE, MEMORY, STORAGE, COORDINATOR, ETCD, ROLES };
enum harm { KILL, PAUSE, CUT, HARMS };
static const char *const role_names[ROLES] = {"compute", "memory", "storage", "coordinator",
                                              "etcd"};
static const char *const harm_names[HARMS] = {"kill", "pause", "cut"};
static const char *const cures[HARMS] = {"start", "resume", "heal"};
static const char *const stems[ROLES] = {"comp", "mem", "store", "coord", "etcd"};
static const unsigned counts[ROLES] = {COMPUTES, MEMNODES, STORAGENODES, COORDINATORS, ETCDS};

/* The one that has something to do, if that can be told; half of the time. */
static void choose_node(enum role role, char node[32])
{
    snprintf(node, 32, "%s%u", stems[role], 1 + (unsigned)draw(counts[role]));
    bool busy = draw(2);
    json_t *status = busy ? look() : NULL;
    if (role == COMPUTE && busy)
        snprintf(node, 32, "%s", failover_last(notes)->process);
    else if (role == COORDINATOR && status)
        snprintf(node, 32, "%s", text_of(json_object_get(status, "leader"), "name"));
    const json_t *part = json_array_get(json_object_get(status, "partitions"), 0);
    const json_t *used = json_object_get(part, role == MEMORY ? "memnodes" : "storagenodes");
    if ((role == MEMORY || role == STORAGE) && json_array_size(used))
        snprintf(node, 32, "%s",
                 json_string_value(json_array_get(used, (size_t)draw(json_array_size(used)))));
    json_decref(status);
}

/* How long there was no commit, and who owns the partition now. */
static void tell_pause(uint64_t begin, failover_owner *before)
{
    failover_owner *last = failover_last(notes);
    if (last == before)
        return;
    uint64_t first = atomic_load(&last->first_ns);
    printf("   %s took over, its first commit %.2f s later\n", last->process,
           (double)(first - begin) / 1e9);
}

/* An owner that was away, and was told so when it came back: by a commit that failed, unless the coordinators were faster
 * and it made none. */
static void check_fenced(failover_owner *owner)
{
    wait_for("an owner that was away and finds out", has_closed, (uint64_t)(owner - notes->owner),
             1000);
    int ended = atomic_load(&owner->ended);
    if (!ended || ended == FARPOOL_E_FENCED)
        return;
    fprintf(stderr, "%s ended with code %d instead of E_FENCED: %s\n", owner->process,
            atomic_load(&owner->ended), owner->reason);
    exit(1);
}

/* All is as it should be again, and was meanwhile. */
static void end_round(uint64_t begin)
{
    wait_for("all to be as it should be", is_calm, 0, verbs ? 1000000 : 100000);
    go_on("commits when all is as it should be");
    failover_verify(notes);
    printf("   all is well after %.1f s, %llu commits\n", seconds_since(begin),
           (unsigned long long)atomic_load(&notes->acks));
    fflush(stdout);
}

static void harm_round(unsigned round, enum role role)
{
    char node[32], second[32] = "";
    unsigned harms = verbs ? CUT : HARMS;
    enum harm harm = (enum harm)draw(harms), also = (enum harm)draw(harms);
    choose_node(role, node);
    if (role == COMPUTE && draw(2))
        choose_node(COORDINATOR, second);
    failover_owner *owner = failover_last(notes);
    uint64_t begin = fp_now_ns();
    bool is_owner = !strcmp(owner->process, node);
    printf("%u: %s %s%s %s %s\n", round, harm_names[harm], node, is_owner ? ", the owner" : "",
           second[0] ? harm_names[also] : "", second);
    fflush(stdout);
    cluster(harm_names[harm], node);
    if (second[0])
        cluster(harm_names[also], second);
    if (is_owner)
        wait_for("another owner", has_other_owner, (uint64_t)(owner - notes->owner), 1000);
    else if (draw(2))
        usleep((unsigned)draw(AWAY_MS) * 1000);
    go_on("commits while a node is away");
    tell_pause(begin, owner);
    cluster(cures[harm], node);
    if (second[0])
        cluster(cures[also], second);
    if (is_owner && harm != KILL)
        check_fenced(owner);
    end_round(begin);
}

/* farpoolctl. 3: nobody leads just now; 6: nobody said what became of it: etcd has changed its leader, and it is repeated. */
static void change(const char *what, const char *of)
{
    int status, tries = 0;
    do
        status = shell("timeout %u %s/farpoolctl %s %s >/dev/null 2>%s/said", deadline_s(), build,
                       what, of, dir);
    while ((status == 3 || status == 6) && ++tries < 3);
    if (!status)
        return;
    fprintf(stderr, "status %d: ", status);
    (void)shell("cat %s/said >&2", dir);
    complain(what);
}

/* Somebody wants it elsewhere: the owner, which is well, gives it up. */
static void move_round(unsigned round)
{
    failover_owner *owner = failover_last(notes);
    uint64_t begin = fp_now_ns();
    printf("%u: move\n", round);
    fflush(stdout);
    change("partition move", "p --wait");
    wait_for("another owner", has_other_owner, (uint64_t)(owner - notes->owner), 1000);
    tell_pause(begin, owner);
    end_round(begin);
}

/* A node that is to go hands everything over before it does; then it may be killed, and comes back. */
static void drain_round(unsigned round)
{
    char node[32], waiting[40];
    enum role role = draw(2) ? MEMORY : COMPUTE;
    failover_owner *owner = failover_last(notes);
    uint64_t begin = fp_now_ns();
    choose_node(role, node);
    printf("%u: drain %s\n", round, node);
    fflush(stdout);
    snprintf(waiting, sizeof waiting, "%s --wait", node);
    change("node drain", waiting);
    tell_pause(begin, owner);
    if (draw(2)) {
        cluster("kill", node);
        go_on("commits without a node that was drained");
        cluster("start", node);
    }
    change("node undrain", node);
    end_round(begin);
}

static void run(void)
{
    const char *text = getenv("ROUNDS"), *limit = getenv("LIMIT_S"), *only = getenv("ROLE");
    unsigned rounds = text ? (unsigned)atoi(text) : 1000, round = 0;
    double end = limit ? atof(limit) : text ? 1e9 : LIMIT_S;
    uint64_t begin = fp_now_ns();
    for (; round < rounds && seconds_since(begin) < end; round++) {
        /* Each role has its turn. */
        unsigned turn = round % (ROLES + 2);
        for (unsigned i = 0; only && i < ROLES; i++)
            turn = !strcmp(only, role_names[i]) ? i : turn;
        if (turn == ROLES)
            move_round(round);
        else if (turn > ROLES)
            drain_round(round);
        else if (counts[turn])
            harm_round(round, (enum role)turn);
    }
    printf("%u rounds, %u owners, %llu commits acknowledged, none lost; %llu tries repeated\n",
           round, atomic_load(&notes->owners), (unsigned long long)atomic_load(&notes->acks),
           (unsigned long long)atomic_load(&notes->retries));
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "worker"))
        return failover_work(argc, argv);
    build = getenv("FARPOOL_BUILD");
    verbs = getenv("VERBS");
    slower = verbs ? 5 : 1;
    random_state = test_seed(fp_now_ns() | 1);
    if (!test_etcd_there())
        return 77;
    if (!build || (!verbs && (geteuid() || shell("unshare -n ip link >/dev/null 2>&1")))) {
        printf("networks of their own for nodes want root and iproute2, and $FARPOOL_BUILD\n");
        return 77;
    }
    up();
    uint64_t begin = fp_now_ns();
    if (shell("timeout %u %s/farpoolctl partition create p --slab 32m --log-ring 4m --wait "
              ">/dev/null 2>&1",
              deadline_s(), build))
        complain("creating a partition");
    go_on("the first commits");
    printf("the first commits %.2f s after the partition was wanted\n", seconds_since(begin));
    run();
    cluster("down", "");
    return 0;
}
