/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/cluster.h"

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
                                i < c->spillers ? c->storages[i % c->storage_count].uri : NULL);
    c->node_up[i] = true;
}

static void start_storage(test_cluster *c, unsigned i, const char *uri)
{
    const char *peers[CLUSTER_STORAGES_MAX] = {0};
    for (unsigned k = 0; k < c->storage_count; k++)
        peers[k] = k != i && c->storages[k].uri[0] ? c->storages[k].uri : NULL;
    test_process_start_peer(&c->storages[i], uri, c->volumes[i], c->file_size, peers,
                            CLUSTER_STORAGES_MAX);
    c->storage_up[i] = true;
}

void test_cluster_start(test_cluster *c, const char *scheme, unsigned storages, unsigned memory_kib)
{
    *c = (test_cluster){
        .storage_count = storages, .memory_kib = memory_kib, .spillers = CLUSTER_NODES};
    test_cluster_start_as_set(c, scheme);
}

void test_cluster_start_as_set(test_cluster *c, const char *scheme)
{
    unsigned storages = c->storage_count;
    REQUIRE(storages >= 1 && storages <= CLUSTER_STORAGES_MAX);
    for (unsigned i = 0; i < storages; i++) {
        test_volume_make(c->volumes[i]);
        start_storage(c, i, scheme);
    }
    for (unsigned i = 0; i < storages; i++) { /* now that all addresses are known */
        test_process_end(&c->storages[i], SIGTERM);
        test_cluster_start_storage(c, i);
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
    c->nodes[i].fault = NULL;
    c->node_up[i] = false;
    kill_process(&c->nodes[i]);
}

void test_cluster_kill_storage(test_cluster *c, unsigned i)
{
    c->killed_storages++;
    c->storages[i].fault = NULL;
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

void test_cluster_doom_node(test_cluster *c, unsigned i, const char *fault)
{
    c->nodes[i].fault = fault;
    test_cluster_start_node(c, i);
}

void test_cluster_doom_storage(test_cluster *c, unsigned i, const char *fault)
{
    c->storages[i].fault = fault;
    test_cluster_start_storage(c, i);
}

static bool has_died(test_process *process, bool *up)
{
    int status;
    REQUIRE(process->fault);
    pid_t ended = waitpid(process->pid, &status, WNOHANG);
    if (!ended)
        return false;
    REQUIRE(ended == process->pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    process->fault = NULL;
    *up = false;
    return true;
}

bool test_cluster_node_died(test_cluster *c, unsigned i)
{
    return has_died(&c->nodes[i], &c->node_up[i]);
}

bool test_cluster_storage_died(test_cluster *c, unsigned i)
{
    return has_died(&c->storages[i], &c->storage_up[i]);
}

static bool has_ended(const test_process *process)
{
    int status;
    return !process->fault && waitpid(process->pid, &status, WNOHANG) != 0;
}

void test_cluster_look_after(const test_cluster *c)
{
    for (unsigned i = 0; i < CLUSTER_NODES; i++)
        REQUIRE(!c->node_up[i] || !has_ended(&c->nodes[i]));
    for (unsigned i = 0; i < c->storage_count; i++)
        REQUIRE(!c->storage_up[i] || !has_ended(&c->storages[i]));
}
