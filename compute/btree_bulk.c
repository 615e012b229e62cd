/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bulk load: nodes are filled outside the pool, one image for each level, and written to a new page when the
 * next record does not go in any more. A page that is done is told to the level above, whose image may be
 * done by that, and so on. At the end the topmost image becomes the root, in the root's page and in one
 * step, so other threads see an empty tree before and the whole one afterwards.
 *
 * When the source ends with an error, the records that came before it are in the tree, and the error is
 * returned. When a page cannot be had, or somebody else has put a record into the tree meanwhile, the pages
 * made so far are freed and the tree is as it was.
 *
 * In the images nothing is left out of the keys, because the upper fence, and with it the common prefix, is
 * known only when the next record has come; the page, made then, has room to spare by as much.
 */
#include "compute/btree.h"

#include <stdlib.h>

#include "common/error.h"

typedef struct stage {
    uint8_t lower[FARPOOL_KEY_MAX]; /* fence of the node being filled */
    size_t lower_len;
    fp_btree_image image; /* without fences; inner nodes: `first` is set with the first child */
} stage;

typedef struct bulk {
    farpool_btree *tree;
    stage *levels[FP_BTREE_LEVELS_MAX];
    unsigned height;   /* levels in use */
    unsigned used_max; /* a node is done before it is fuller than this */
    uint8_t last[FARPOOL_KEY_MAX];
    size_t last_len;  /* 0: no record yet */
    uint64_t records; /* taken from the source so far */
    bool published;
} bulk;

static void clear_image(stage *level, unsigned number, farpool_slice lower)
{
    farpool_slice none = {NULL, 0};
    fp_btree_node_init(&level->image.node, number, none, false, none);
    if (lower.len)
        memcpy(level->lower, lower.data, lower.len);
    level->lower_len = lower.len;
}

static int add_level(bulk *loader)
{
    if (loader->height == FP_BTREE_LEVELS_MAX)
        return fp_error(FARPOOL_E_NOSPACE, "bulk load: a tree of more than %d levels",
                        FP_BTREE_LEVELS_MAX);
    stage *level = malloc(sizeof *level);
    if (!level)
        return fp_error(FARPOOL_E_NOMEM, "bulk load: no memory for %zu bytes", sizeof *level);
    clear_image(level, loader->height, (farpool_slice){NULL, 0});
    loader->levels[loader->height++] = level;
    return 0;
}

/* The fences need room as well: the lower one is known, upper_max is what the upper one may need. */
static bool has_room(const bulk *loader, const stage *level, size_t key_len, size_t value_len,
                     size_t upper_max)
{
    const fp_btree_node *node = &level->image.node;
    return node->count < 2 || fp_btree_node_used(node) +
                                      fp_btree_record_bytes(node, key_len, value_len) +
                                      level->lower_len + upper_max <=
                                  loader->used_max;
}

/* Writes the image to a node with fences; false cannot be, for has_room has counted. */
static bool write_node(const stage *level, bool has_upper, farpool_slice upper, fp_btree_node *node)
{
    const fp_btree_node *image = &level->image.node;
    fp_btree_node_init(node, image->level, (farpool_slice){level->lower, level->lower_len},
                       has_upper, upper);
    node->first = image->first;
    return fp_btree_node_append(node, image, 0, image->count);
}

static int emit(bulk *loader, unsigned number, bool has_upper, farpool_slice upper);
static int emit_inner(bulk *loader, unsigned number);

/* Tells a level of a new node below it. */
static int add_child(bulk *loader, unsigned number, farpool_slice lower, farpool_pid pid)
{
    int rc = number < loader->height ? 0 : add_level(loader);
    if (rc)
        return rc;
    stage *level = loader->levels[number];
    fp_btree_node *node = &level->image.node;
    if (node->first == FARPOOL_PID_NONE) {
        node->first = pid;
        return 0;
    }
    if (!has_room(loader, level, lower.len, sizeof pid, 0)) {
        rc = emit_inner(loader, number);
        if (rc)
            return rc;
    }
    fp_btree_node_insert(node, node->count, lower, (farpool_slice){&pid, sizeof pid}, false);
    return 0;
}

/* An inner node ends before its last key: that goes up, so its fence is sure to have room, and its child
 * is the first of the next node. */
static int emit_inner(bulk *loader, unsigned number)
{
    stage *level = loader->levels[number];
    fp_btree_node *node = &level->image.node;
    uint8_t buffer[FARPOOL_KEY_MAX];
    unsigned last = node->count - 1u;
    farpool_slice key = fp_btree_node_key(node, last, buffer);
    farpool_pid child = fp_btree_child(node, (int)last);
    fp_btree_node_remove(node, last);
    int rc = emit(loader, number, true, key);
    if (rc)
        fp_btree_node_insert(node, last, key, (farpool_slice){&child, sizeof child}, false);
    else
        node->first = child;
    return rc;
}

static int write_page(const farpool_btree *tree, stage *level, bool has_upper, farpool_slice upper,
                      farpool_pid *pid)
{
    farpool_mtr *mtr;
    void *page;
    int rc = fp_btree_begin(tree, &mtr);
    if (rc)
        return rc;
    rc = farpool_mtr_alloc(mtr, 0, pid, &page);
    if (!rc && !write_node(level, has_upper, upper, page))
        rc = FARPOOL_E_CORRUPT;
    if (!rc)
        return fp_btree_commit(mtr);
    farpool_mtr_abandon(mtr);
    return rc;
}

/* What cannot be fetched stays behind. */
static void free_page(const farpool_btree *tree, farpool_pid pid)
{
    farpool_mtr *mtr;
    if (fp_btree_begin(tree, &mtr))
        return;
    if (farpool_mtr_free(mtr, pid)) {
        farpool_mtr_abandon(mtr);
        return;
    }
    int rc = fp_btree_commit(mtr);
    (void)rc;
}

/* Gives the level's image a page and begins a new one with the lower fence `upper`. */
static int emit(bulk *loader, unsigned number, bool has_upper, farpool_slice upper)
{
    stage *level = loader->levels[number];
    farpool_pid pid;
    int rc = write_page(loader->tree, level, has_upper, upper, &pid);
    if (rc)
        return rc;
    uint8_t buffer[FARPOOL_KEY_MAX];
    memcpy(buffer, level->lower, level->lower_len);
    farpool_slice lower = {buffer, level->lower_len};
    rc = add_child(loader, number + 1, lower, pid);
    if (rc) { /* nobody else knows the page; its children are in the image still */
        free_page(loader->tree, pid);
        return rc;
    }
    clear_image(level, number, upper);
    return 0;
}

/* ---- giving up -------------------------------------------------------------------------------- */

static void free_children(const farpool_btree *tree, const fp_btree_node *node);

/* Frees a page that only this thread knows, and all below it. */
static void free_subtree(const farpool_btree *tree, farpool_pid pid)
{
    void *page;
    if (farpool_fix(tree->partition, pid, FARPOOL_SHARED, &page))
        return;
    free_children(tree, page);
    farpool_unfix(tree->partition, pid, FARPOOL_SHARED);
    free_page(tree, pid);
}

/* Recursion goes down one level of the tree at a time. */
static void free_children(const farpool_btree *tree, const fp_btree_node *node)
{
    if (node->level && node->first != FARPOOL_PID_NONE)
        free_subtree(tree, node->first);
    for (unsigned i = 0; i < node->count; i++) {
        if (node->level) {
            free_subtree(tree, fp_btree_child(node, (int)i));
        } else if (fp_btree_slot_overflow(node->slots[i])) {
            fp_btree_ref ref;
            memcpy(&ref, fp_btree_value(node, node->slots[i]).data, sizeof ref);
            free_page(tree, ref.pid);
        }
    }
}

/* ---- the load --------------------------------------------------------------------------------- */

static int write_large(const farpool_btree *tree, farpool_slice value, fp_btree_ref *ref)
{
    farpool_mtr *mtr;
    int rc = fp_btree_begin(tree, &mtr);
    if (rc)
        return rc;
    rc = fp_btree_overflow_write(mtr, value, ref);
    if (!rc)
        return fp_btree_commit(mtr);
    farpool_mtr_abandon(mtr);
    return rc;
}

static int add_record(bulk *loader, farpool_slice key, farpool_slice value)
{
    const farpool_slice last = {loader->last, loader->last_len};
    fp_btree_ref ref;
    int rc = fp_btree_check_record(key, value);
    if (rc)
        return rc;
    int order = memcmp(last.data, key.data, last.len < key.len ? last.len : key.len);
    if (last.len && (order > 0 || (order == 0 && last.len >= key.len)))
        return fp_error(
            FARPOOL_E_INVAL, "bulk load: record %llu is %s; keys must come in ascending order",
            (unsigned long long)loader->records,
            order || last.len > key.len ? "below the one before it" : "the one before it again");
    bool overflow = fp_btree_overflows(key.len, value.len);
    size_t stored = overflow ? sizeof ref : value.len;
    stage *leaves = loader->levels[0];
    /* A separator after this key is at most one byte longer than what it has in common with the next. */
    if (!has_room(loader, leaves, key.len, stored, key.len + 1)) {
        rc = emit(loader, 0, true, fp_btree_separator(last, key));
        if (rc)
            return rc;
    }
    if (overflow) {
        rc = write_large(loader->tree, value, &ref);
        if (rc)
            return rc;
        value = (farpool_slice){&ref, sizeof ref};
    }
    fp_btree_node_insert(&leaves->image.node, leaves->image.node.count, key, value, overflow);
    memcpy(loader->last, key.data, key.len);
    loader->last_len = key.len;
    loader->records++;
    return 0;
}

/* Ends all levels but the topmost and makes that the root. */
static int publish(bulk *loader)
{
    farpool_mtr *mtr;
    farpool_slice none = {NULL, 0};
    for (unsigned number = 0; number + 1 < loader->height; number++) {
        int rc = emit(loader, number, false, none);
        if (rc)
            return rc;
    }
    void *page;
    int rc = fp_btree_begin(loader->tree, &mtr);
    if (rc)
        return rc;
    rc = farpool_mtr_fix(mtr, loader->tree->root, &page);
    fp_btree_node *root = page;
    if (!rc && (root->level || root->count))
        rc = fp_error(FARPOOL_E_EXISTS, "bulk load: the tree is not empty");
    else if (!rc && !write_node(loader->levels[loader->height - 1], false, none, root))
        rc = FARPOOL_E_CORRUPT;
    if (rc) {
        farpool_mtr_abandon(mtr);
        return rc;
    }
    rc = fp_btree_commit(mtr);
    loader->published = !rc;
    return rc;
}

static int load(bulk *loader, farpool_bulk_fn next, void *arg)
{
    farpool_slice key = {NULL, 0}, value = {NULL, 0};
    int more;
    while ((more = next(arg, &key, &value)) > 0) {
        int rc = add_record(loader, key, value);
        if (rc == FARPOOL_E_INVAL || rc == FARPOOL_E_TOO_BIG) {
            more = rc; /* the source's fault, like an error of its own */
            break;
        }
        if (rc)
            return rc;
    }
    int rc = publish(loader);
    return rc ? rc : more;
}

int farpool_btree_bulk_load(farpool_btree *tree, farpool_bulk_fn next, void *arg,
                            unsigned fill_percent)
{
    if (!tree || !next || fill_percent < 50 || fill_percent > 100)
        return fp_error(FARPOOL_E_INVAL,
                        "bulk load: no tree, no source, or leaves not filled to 50 to 100 percent");
    bulk loader = {.tree = tree,
                   .used_max = (FARPOOL_UNIT_BYTES - FP_BTREE_HEADER) * fill_percent / 100};
    int rc = add_level(&loader);
    if (rc)
        return rc;
    rc = load(&loader, next, arg);
    for (unsigned number = 0; number < loader.height; number++) {
        if (!loader.published)
            free_children(tree, &loader.levels[number]->image.node);
        free(loader.levels[number]);
    }
    return rc;
}
