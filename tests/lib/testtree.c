/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/testtree.h"

#include "compute/btree.h"
#include "tests/lib/require.h"

void test_tree_open(test_tree *t, enum farpool_mapping mapping, uint64_t pool_bytes,
                    uint64_t slab_bytes)
{
    *t = (test_tree){.taken = FARPOOL_PID_NONE};
    t->node = test_node_start("shm", slab_bytes + slab_bytes / 4); /* slots have headers */
    test_pool_open(&t->node, 1, mapping, pool_bytes, slab_bytes, &t->pool, &t->part);
    test_must(farpool_btree_create(t->part, &t->root, &t->tree), "creating a tree");
}

void test_tree_close(test_tree *t)
{
    farpool_btree_close(t->tree);
    test_pool_close(t->pool, t->part);
    test_node_stop(t->node);
}

farpool_btree *test_tree_handle(const test_tree *t, bool latched)
{
    farpool_btree *handle;
    test_must(farpool_btree_open(t->part, t->root, &handle), "opening a tree");
    if (latched)
        handle->tries = 0;
    return handle;
}

/* The pages taken are a list: each holds the pid of the one taken before. */
static unsigned take_all(test_tree *t)
{
    farpool_pid pid, *page;
    unsigned count = 0;
    int rc;
    while (!(rc = farpool_page_alloc(t->part, 0, &pid, (void **)&page))) {
        *page = t->taken;
        t->taken = pid;
        count++;
        farpool_unfix(t->part, pid, FARPOOL_EXCLUSIVE);
    }
    test_must(rc == FARPOOL_E_NOSPACE ? 0 : rc, "taking what is left");
    return count;
}

static bool give_back(test_tree *t)
{
    farpool_pid pid = t->taken, *page;
    if (pid == FARPOOL_PID_NONE)
        return false;
    test_must(farpool_fix(t->part, pid, FARPOOL_EXCLUSIVE, (void **)&page), "giving pages back");
    t->taken = *page;
    farpool_page_free(t->part, pid);
    return true;
}

unsigned test_tree_pages_left(test_tree *t)
{
    unsigned count = take_all(t);
    for (unsigned i = 0; i < count; i++)
        give_back(t);
    return count;
}

void test_tree_leave(test_tree *t, unsigned pages)
{
    take_all(t);
    while (pages-- && give_back(t))
        ;
}

void test_tree_leave_all(test_tree *t)
{
    while (give_back(t))
        ;
}
