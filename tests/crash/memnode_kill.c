/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows what a memory node killed with kill -9 does to those who fault pages from it at that moment: every
 * waiting fault returns an error that names the node, nothing hangs, pages of the other node stay readable,
 * and the pool can be closed. FARPOOL_TEST_SCHEME picks the transport (default: shm, then tcp).
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "farpool.h"
#include "tests/lib/testnode.h"

enum { THREADS = 4, PAGES = 1500, POOL_BYTES = 1 << 20, NODE_KIB = 24 << 10 };

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s is false (%s)\n", __FILE__, __LINE__, #condition,           \
                    farpool_errmsg());                                                             \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

typedef struct node {
    pid_t pid;
    char uri[256];
} node;

static farpool_partition *part;
static farpool_pid pids[PAGES];
static _Atomic unsigned faults, failed;
static _Atomic bool readable_after; /* a page of the node that lives was read after the kill */
static _Atomic bool killed;
static const char *victim;

static void start(node *n, const char *scheme, int number)
{
    char path[4096], listen[256], memory[32], fd[16], line[1024] = "";
    const char *build = getenv("FARPOOL_BUILD");
    int fds[2];
    CHECK(pipe(fds) == 0);
    snprintf(path, sizeof path, "%s/farpool-memnode", build ? build : "build");
    if (!strcmp(scheme, "shm"))
        snprintf(listen, sizeof listen, "shm:///tmp/farpool-kill-%d-%d.sock", (int)getpid(),
                 number);
    else
        snprintf(listen, sizeof listen, "%s://%s:0", scheme,
                 !strcmp(scheme, "verbs") ? "10.77.0.1" : "127.0.0.1");
    snprintf(memory, sizeof memory, "%dk", NODE_KIB);
    snprintf(fd, sizeof fd, "%d", fds[1]);
    n->pid = fork();
    CHECK(n->pid >= 0);
    if (!n->pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(path, path, "--listen", listen, "--memory", memory, "--ready-fd", fd, "--log-level",
              "error", (char *)NULL);
        perror(path);
        _exit(127);
    }
    close(fds[1]);
    FILE *ready = fdopen(fds[0], "r");
    CHECK(ready && fgets(line, sizeof line, ready));
    fclose(ready);
    const char *list = strstr(line, "\"listen\"");
    const char *uri = list ? strstr(list, scheme) : NULL;
    CHECK(uri);
    snprintf(n->uri, sizeof n->uri, "%.*s", (int)strcspn(uri, "\""), uri);
}

/* Reads pages at random until one cannot be had, then looks for one that still can. */
static void *read_until_it_fails(void *arg)
{
    uint64_t random = 1 + (uint64_t)(uintptr_t)arg;
    int rc = 0;
    void *page;
    while (!rc) {
        farpool_pid pid = pids[test_random(&random) % PAGES];
        rc = farpool_fix(part, pid, FARPOOL_SHARED, &page);
        if (!rc) {
            CHECK(*(farpool_pid *)page == pid);
            farpool_unfix(part, pid, FARPOOL_SHARED);
            atomic_fetch_add(&faults, 1);
        }
    }
    CHECK(atomic_load(&killed));
    CHECK(rc == FARPOOL_E_NODE);
    CHECK(strstr(farpool_errmsg(), victim));
    atomic_fetch_add(&failed, 1);
    for (unsigned i = 0; i < PAGES; i++) {
        if (farpool_fix(part, pids[i], FARPOOL_SHARED, &page))
            continue;
        CHECK(*(farpool_pid *)page == pids[i]);
        farpool_unfix(part, pids[i], FARPOOL_SHARED);
        atomic_store(&readable_after, true);
    }
    return NULL;
}

static void fill(void)
{
    for (unsigned i = 0; i < PAGES; i++) {
        void *page;
        CHECK(farpool_page_alloc(part, 0, &pids[i], &page) == 0);
        *(farpool_pid *)page = pids[i];
        farpool_unfix(part, pids[i], FARPOOL_EXCLUSIVE);
    }
    for (unsigned i = 0; i < PAGES; i++) { /* clean copies: a dead node must not stop eviction */
        void *page;
        CHECK(farpool_fix(part, pids[i], FARPOOL_SHARED, &page) == 0);
        farpool_unfix(part, pids[i], FARPOOL_SHARED);
    }
}

static void run(const char *scheme)
{
    node nodes[2];
    const char *uris[2];
    for (int i = 0; i < 2; i++) {
        start(&nodes[i], scheme, i);
        uris[i] = nodes[i].uri;
    }
    farpool_pool_options pool_options;
    farpool_pool *pool;
    farpool_pool_options_init(&pool_options);
    pool_options.pool_bytes = POOL_BYTES;
    CHECK(farpool_pool_open(&pool_options, &pool) == 0);
    farpool_partition_options options;
    farpool_partition_options_init(&options);
    options.memnodes = uris;
    options.memnode_count = 2;
    options.slab_bytes = 16 << 20;
    CHECK(farpool_partition_open(pool, &options, &part) == 0);
    fill();
    victim = uris[0];
    atomic_store(&faults, 0);
    atomic_store(&failed, 0);
    atomic_store(&killed, false);
    atomic_store(&readable_after, false);
    pthread_t threads[THREADS];
    for (uintptr_t t = 0; t < THREADS; t++)
        CHECK(pthread_create(&threads[t], NULL, read_until_it_fails, (void *)t) == 0);
    while (atomic_load(&faults) < 2000) /* all of them are at it */
        sched_yield();
    atomic_store(&killed, true);
    CHECK(kill(nodes[0].pid, SIGKILL) == 0);
    CHECK(waitpid(nodes[0].pid, NULL, 0) == nodes[0].pid);
    for (unsigned t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    CHECK(atomic_load(&failed) == THREADS);
    CHECK(atomic_load(&readable_after));
    CHECK(farpool_partition_close(part) == FARPOOL_E_NODE); /* that node could not be told */
    CHECK(farpool_pool_close(pool) == 0);
    CHECK(kill(nodes[1].pid, SIGTERM) == 0);
    int status;
    CHECK(waitpid(nodes[1].pid, &status, 0) == nodes[1].pid && status == 0);
    printf("%s: %u faults, then %d threads told which node is gone\n", scheme, atomic_load(&faults),
           THREADS);
}

int main(void)
{
    alarm(100); /* a hang is a failure */
    const char *scheme = getenv("FARPOOL_TEST_SCHEME");
    if (scheme) {
        run(scheme);
    } else {
        run("shm");
        run("tcp");
    }
    return 0;
}
