/* SPDX-License-Identifier: Apache-2.0 */
/*
 * This process starts the nodes, and one compute process ("owner") after the other, which it forks. Only owners
 * use the library. What an owner has been told is acknowledged it notes in memory that it shares with this process
 * and with the owners after it, so the notes outlive it.
 *
 *   owner 1   writes; is killed
 *   owner 2   recovers, compares, writes while a memory node is killed, comes back and is taken in again, and then
 *             another one is killed; compares; then writes with FARPOOL_DURABLE_STORAGE until it and all nodes are
 *             killed
 *   owner 3   recovers from what the storage node has, and compares
 */
#include "compute/cli/survive.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "compute/cli/survive_owner.h"
#include "compute/cli/workload.h"

enum {
    RING_MIN = 16 << 20,
    RING_VALUES = 16,   /* so many of the longest records have room in a ring */
    VICTIM = 1,         /* the memory node that is killed first, */
    NEXT_VICTIM = 2,    /* and when that is back */
    WAIT_SECONDS = 120, /* for an owner to do what it should */
};

/* ---- in this process: owners and nodes come and go -------------------------------------------- */

static int start_owner(survive *s)
{
    s->epoch++;
    atomic_store(&s->notes->reached, 0);
    atomic_store(&s->notes->writing, false);
    atomic_store(&s->notes->enough, false);
    s->owner = fork();
    if (s->owner < 0)
        return fp_error_sys("starting a compute process: fork");
    if (!s->owner)
        cli_survive_own(s);
    return 0;
}

static void kill_owner(survive *s)
{
    if (s->owner <= 0)
        return;
    kill(s->owner, SIGKILL);
    waitpid(s->owner, NULL, 0);
    s->owner = 0;
}

/* Between looks at what the owner has reached; nothing becomes right by it. */
static void nap(void)
{
    struct timespec time = {0, 1000000};
    nanosleep(&time, NULL);
}

/* Has the owner ended? Then the reason is the error. */
static int check_owner(survive *s)
{
    int status;
    pid_t ended = waitpid(s->owner, &status, WNOHANG);
    if (!ended)
        return 0;
    s->owner = 0;
    if (WIFSIGNALED(status))
        return fp_error(FARPOOL_E_SYS, "survive: the compute process died of signal %d",
                        WTERMSIG(status));
    if (!s->notes->rc)
        return 0;
    return fp_error(s->notes->rc, "survive: %s", s->notes->message);
}

static int wait_until(survive *s, unsigned comparisons, bool writing)
{
    uint64_t start = fp_now_ns();
    while (atomic_load(&s->notes->reached) < comparisons ||
           (writing && !atomic_load(&s->notes->writing))) {
        int rc = check_owner(s);
        if (rc)
            return rc;
        if (!s->owner || fp_now_ns() - start > WAIT_SECONDS * 1000000000ull)
            return fp_error(FARPOOL_E_TIMEOUT,
                            "survive: the compute process under epoch %llu did not do what it "
                            "should within %d s",
                            (unsigned long long)s->epoch, WAIT_SECONDS);
        nap();
    }
    return 0;
}

/* Lets it write; at least one write has to be acknowledged meanwhile. */
static int let_write(survive *s, double seconds)
{
    int rc = wait_until(s, 0, true);
    uint64_t start = fp_now_ns(), before = atomic_load(&s->notes->acknowledged);
    while (!rc && (atomic_load(&s->notes->acknowledged) == before ||
                   (double)(fp_now_ns() - start) < seconds * 1e9)) {
        rc = check_owner(s);
        if (!rc && (double)(fp_now_ns() - start) > (WAIT_SECONDS + seconds) * 1e9)
            rc = fp_error(FARPOOL_E_TIMEOUT, "survive: no write was acknowledged within %d s",
                          WAIT_SECONDS);
        nap();
    }
    return rc;
}

static void say(const survive *s, const char *what)
{
    if (!s->plan->quiet)
        fprintf(stderr, "  survive            %s\n", what);
}

static int kill_compute(survive *s, cli_comeback *back)
{
    say(s, "a compute process writes");
    int rc = start_owner(s);
    if (!rc)
        rc = let_write(s, s->plan->seconds);
    if (rc)
        return rc;
    kill_owner(s);
    say(s, "kill -9 of the compute process; the next one opens its partition");
    uint64_t writes = atomic_load(&s->notes->acknowledged);
    rc = start_owner(s);
    if (!rc)
        rc = wait_until(s, 1, false);
    *back = s->notes->found;
    back->writes = writes;
    return rc;
}

/* The memory node starts again, empty, and the compute process takes it in while it writes. */
static int bring_back(survive *s)
{
    int rc = cli_nodes_restart(&s->memnodes, VICTIM);
    if (rc)
        return rc;
    s->epoch++;
    atomic_store(&s->notes->take_in, true);
    say(s, "the memory node is back, and taken in while the compute process writes");
    uint64_t start = fp_now_ns();
    while (!rc && atomic_load(&s->notes->take_in)) {
        rc = check_owner(s);
        if (!rc && fp_now_ns() - start > WAIT_SECONDS * 1000000000ull)
            rc =
                fp_error(FARPOOL_E_TIMEOUT,
                         "survive: a memory node was not taken in again within %d s", WAIT_SECONDS);
        nap();
    }
    say(s, "its pages come back in the background");
    while (!rc && !atomic_load(&s->notes->filled_ns) &&
           fp_now_ns() - start < WAIT_SECONDS * 1000000000ull) {
        rc = check_owner(s);
        nap();
    }
    return rc ? rc : let_write(s, s->plan->seconds / 3);
}

static int kill_memnode(survive *s, cli_comeback *back)
{
    int rc = let_write(s, s->plan->seconds / 3);
    if (rc)
        return rc;
    uint64_t before = atomic_load(&s->notes->acknowledged);
    atomic_store(&s->notes->pause_ns, 0);
    cli_nodes_kill(&s->memnodes, VICTIM);
    say(s, "kill -9 of a memory node; the compute process goes on");
    rc = let_write(s, s->plan->seconds / 3);
    if (!rc)
        rc = bring_back(s);
    if (rc)
        return rc;
    cli_nodes_kill(&s->memnodes, NEXT_VICTIM);
    say(s, "kill -9 of another memory node");
    rc = let_write(s, s->plan->seconds / 3);
    uint64_t writes = atomic_load(&s->notes->acknowledged) - before;
    double pause = (double)atomic_load(&s->notes->pause_ns) / 1e6;
    atomic_store(&s->notes->enough, true);
    if (!rc)
        rc = wait_until(s, 2, false);
    *back = s->notes->found;
    back->writes = writes;
    back->pause_ms = pause;
    back->taken_ms = (double)atomic_load(&s->notes->taken_ns) / 1e6;
    back->filled_seconds = (double)atomic_load(&s->notes->filled_ns) / 1e9;
    back->open_ms = back->first_ms = 0; /* it had been opened before */
    return rc;
}

static int restart_nodes(survive *s)
{
    int rc = cli_nodes_restart(&s->storage, 0);
    for (unsigned i = 0; i < s->memnodes.count && !rc; i++)
        rc = cli_nodes_restart(&s->memnodes, i);
    return rc;
}

static int kill_all(survive *s, cli_comeback *back)
{
    int rc = let_write(s, s->plan->seconds);
    if (rc)
        return rc;
    say(s,
        "kill -9 of the compute process, all memory nodes and the storage node; all start again");
    kill_owner(s);
    for (unsigned i = 0; i < s->memnodes.count; i++)
        cli_nodes_kill(&s->memnodes, i);
    cli_nodes_kill(&s->storage, 0);
    uint64_t writes = atomic_load(&s->notes->acknowledged);
    rc = restart_nodes(s);
    if (!rc)
        rc = start_owner(s);
    if (!rc)
        rc = wait_until(s, 1, false);
    *back = s->notes->found;
    back->writes = writes;
    while (!rc && s->owner) {
        rc = check_owner(s);
        nap();
    }
    return rc;
}

/* ---- what it needs ---------------------------------------------------------------------------- */

static int make_volume(survive *s)
{
    const char *dir = getenv("TMPDIR");
    int n = snprintf(s->volume, sizeof s->volume, "%s/farpool-volume-XXXXXX",
                     dir && dir[0] ? dir : "/tmp");
    if (n < (int)sizeof s->volume && mkdtemp(s->volume))
        return 0;
    int rc = fp_error_sys("survive: making a directory like '%s' for the volume", s->volume);
    s->volume[0] = 0;
    return rc;
}

/* A volume is one directory with files in it. */
static void remove_volume(survive *s)
{
    DIR *dir = s->volume[0] ? opendir(s->volume) : NULL;
    if (!dir)
        return;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir))
        if (entry->d_type != DT_DIR)
            unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    rmdir(s->volume);
}

static int make_notes(survive *s)
{
    const cli_input *input = s->plan->input;
    s->notes_bytes = sizeof *s->notes + input->count * sizeof s->notes->records[0];
    void *memory =
        mmap(NULL, s->notes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return fp_error(FARPOOL_E_NOMEM, "survive: no memory for notes of %zu records",
                        input->count);
    s->notes = memory;
    for (size_t i = 0; i < input->count; i++)
        if (cli_survive_length(&input->records[i]) > s->longest)
            s->longest = cli_survive_length(&input->records[i]);
    s->longest += sizeof(uint32_t);
    s->step = cli_scattering_step(input->count);
    return 0;
}

static int start_nodes(survive *s, cli_survived *survived)
{
    const cli_survive *plan = s->plan;
    /* Without one memory node, the others still have room for all, and each has whole extents. */
    s->slab_bytes = plan->slab_bytes / (CLI_SURVIVE_NODES - 1) * CLI_SURVIVE_NODES;
    uint64_t ring = (uint64_t)s->longest * RING_VALUES / FARPOOL_UNIT_BYTES * FARPOOL_UNIT_BYTES;
    s->ring_bytes = ring > RING_MIN ? ring : RING_MIN;
    uint64_t each = (s->slab_bytes / CLI_SURVIVE_NODES + s->ring_bytes) * 3 / 2 + (16u << 20);
    if (cli_storage_start(&s->storage, plan->transport, plan->host, s->volume)) {
        snprintf(survived->left_out, sizeof survived->left_out,
                 "the storage node did not start in %s (it says why above)", s->volume);
        return 0;
    }
    return cli_nodes_start(&s->memnodes, CLI_SURVIVE_NODES, plan->transport, plan->host, each,
                           s->storage.uris[0]);
}

int cli_survive_run(const cli_survive *plan, cli_survived *survived)
{
    survive s = {.plan = plan};
    *survived = (cli_survived){0};
    int rc = make_volume(&s);
    if (!rc)
        rc = make_notes(&s);
    if (!rc)
        rc = start_nodes(&s, survived);
    survived->ran = !rc && !survived->left_out[0];
    if (survived->ran)
        rc = kill_compute(&s, &survived->compute);
    if (survived->ran && !rc)
        rc = kill_memnode(&s, &survived->memnode);
    if (survived->ran && !rc)
        rc = kill_all(&s, &survived->all);
    kill_owner(&s);
    cli_nodes_stop(&s.memnodes);
    cli_nodes_stop(&s.storage);
    remove_volume(&s);
    if (s.notes)
        munmap(s.notes, s.notes_bytes);
    return rc;
}
