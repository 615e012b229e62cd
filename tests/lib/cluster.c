/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/cluster.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/lib/teststorage.h"

static void kill_process(const test_process *process)
{
    test_process copy = *process;
    REQUIRE(WTERMSIG(test_process_end(&copy, SIGKILL)) == SIGKILL);
}

static void start_node(test_cluster *c, unsigned i, const char *uri)
{
    test_process_start_spilling(&c->nodes[i], uri, c->memory_kib,
                                c->storages[i % c->storage_count].uri);
    c->node_up[i] = true;
}

static void start_storage(test_cluster *c, unsigned i, const char *uri)
{
    test_process_start_storage(&c->storages[i], uri, c->volumes[i]);
    c->storage_up[i] = true;
}

void test_cluster_start(test_cluster *c, const char *scheme, unsigned storages, unsigned memory_kib)
{
    *c = (test_cluster){.storage_count = storages, .memory_kib = memory_kib};
    REQUIRE(storages >= 1 && storages <= CLUSTER_STORAGES_MAX);
    for (unsigned i = 0; i < storages; i++) {
        test_volume_make(c->volumes[i]);
        start_storage(c, i, scheme);
    }
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        start_node(c, i, scheme);
}

void test_cluster_stop(test_cluster *c)
{
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        if (c->node_up[i])
            test_process_end(&c->nodes[i], SIGTERM);
    for (unsigned i = 0; i < c->storage_count; i++) {
        if (c->storage_up[i])
            test_process_end(&c->storages[i], SIGTERM);
        test_volume_remove(c->volumes[i]);
    }
}

void test_cluster_kill_node(test_cluster *c, unsigned i)
{
    c->killed_nodes++;
    c->node_up[i] = false;
    kill_process(&c->nodes[i]);
}

void test_cluster_kill_storage(test_cluster *c, unsigned i)
{
    c->killed_storages++;
    c->storage_up[i] = false;
    kill_process(&c->storages[i]);
}

void test_cluster_start_node(test_cluster *c, unsigned i)
{
    char uri[sizeof c->nodes[i].uri];
    strcpy(uri, c->nodes[i].uri);
    start_node(c, i, uri);
}

void test_cluster_start_storage(test_cluster *c, unsigned i)
{
    char uri[sizeof c->storages[i].uri];
    strcpy(uri, c->storages[i].uri);
    start_storage(c, i, uri);
}

void test_cluster_start_all(test_cluster *c)
{
    for (unsigned i = 0; i < c->storage_count; i++)
        if (!c->storage_up[i])
            test_cluster_start_storage(c, i);
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        if (!c->node_up[i])
            test_cluster_start_node(c, i);
}

static bool has_ended(const test_process *process)
{
    int status;
    return waitpid(process->pid, &status, WNOHANG) != 0;
}

void test_cluster_look_after(const test_cluster *c)
{
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        REQUIRE(!c->node_up[i] || !has_ended(&c->nodes[i]));
    for (unsigned i = 0; i < c->storage_count; i++)
        REQUIRE(!c->storage_up[i] || !has_ended(&c->storages[i]));
}

void test_cluster_copy_volume(test_cluster *c, unsigned from, unsigned to)
{
    char source[PATH_MAX], command[2 * PATH_MAX];
    REQUIRE(realpath(c->volumes[from], source));
    test_cluster_kill_storage(c, from);
    test_cluster_kill_storage(c, to);
    int len = snprintf(command, sizeof command,
                       "cd '%s' && find . -type f ! -name volume ! -name lock -delete && "
                       "find '%s' -type f ! -name volume ! -name lock -exec cp -t . {} +",
                       c->volumes[to], source);
    REQUIRE(len < (int)sizeof command && system(command) == 0);
    test_cluster_start_storage(c, from);
    test_cluster_start_storage(c, to);
    c->copies++;
}
