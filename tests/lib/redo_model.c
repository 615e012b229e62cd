/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/redo_model.h"

#include <stdio.h>
#include <string.h>

#include "tests/lib/testnode.h"

enum { LENGTHS = 40, VALUE_MAX = 1400, ORDERS_MAX = 3 };

static uint64_t draw(redo_model *m, uint64_t below) { return test_random(m->random) % below; }

/* ---- what things hold ------------------------------------------------------------------------ */

static size_t field_words(const model_page *page)
{
    return ((size_t)FARPOOL_UNIT_BYTES << page->order) / MODEL_FIELDS / sizeof(uint64_t);
}

/* Word i of a field made of this number; odd ones fill it. */
static uint64_t word_of(uint64_t number, size_t i)
{
    bool in = number && (number % 2 || i < 4 + number % LENGTHS);
    return in ? (number + 1) * 0x9E3779B97F4A7C15ull + i : 0;
}

static void fill_field(const model_page *page, unsigned field, uint64_t number, uint64_t *words)
{
    for (size_t i = 0; i < field_words(page); i++)
        words[field * field_words(page) + i] = word_of(number, i);
}

static bool holds(const model_page *page, const uint64_t *words)
{
    for (unsigned f = 0; f < MODEL_FIELDS; f++)
        for (size_t i = 0; i < field_words(page); i++)
            if (*words++ != word_of(page->fields[f], i))
                return false;
    return true;
}

static farpool_slice key_of(unsigned index, char text[16])
{
    return (farpool_slice){text, (size_t)snprintf(text, 16, "key %04u", index)};
}

static farpool_slice value_of(uint64_t number, uint8_t bytes[VALUE_MAX])
{
    size_t len = 8 + number % (VALUE_MAX - 8);
    memset(bytes, (int)(number % 251), len);
    memcpy(bytes, &number, sizeof number);
    return (farpool_slice){bytes, len};
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void apply(model_state *state, const model_step *step)
{
    for (unsigned i = 0; i < step->count; i++) {
        const model_change *c = &step->changes[i];
        model_page *page = &state->pages[c->kind == MODEL_KEY ? 0 : c->index];
        switch (c->kind) {
        case MODEL_ALLOC:
            *page = (model_page){.there = true, .pid = c->pid, .order = c->order};
            break;
        case MODEL_FREE:
            page->there = false;
            break;
        case MODEL_FIELD:
            page->fields[c->field] = c->value;
            break;
        case MODEL_KEY:
            state->keys[c->index] = c->value;
            break;
        }
    }
}

static void push(redo_model *m, const model_step *step)
{
    MODEL_CHECK(m->count < MODEL_STEPS);
    apply(&m->now, step);
    m->steps[m->count++] = *step;
}

void model_leave(const redo_model *m, redo_model *left)
{
    *left = *m;
    left->pending.count = 0;
    left->over = left->gone = false;
    if (m->pending.count)
        push(left, &m->pending);
}

static uint64_t next_number(redo_model *m)
{
    m->numbers += 2;
    return m->numbers + (m->big && draw(m, 4) != 0);
}

/* As it was before a change of this owner's that was acknowledged. Whoever has the partition since has found that change. */
static bool is_older(const redo_model *m, unsigned index, const uint64_t *words)
{
    model_state state = m->base;
    const model_page *page = &state.pages[index];
    bool older = false;
    for (unsigned i = 0; i < m->acked; i++) {
        model_page before = *page;
        apply(&state, &m->steps[i]);
        if (!memcmp(&before, page, sizeof before) || before.order != m->now.pages[index].order)
            continue;
        bool empty = true; /* so is a page that the next owner has made anew */
        for (unsigned f = 0; f < MODEL_FIELDS; f++)
            empty = empty && !before.fields[f];
        older = (older || (before.there && !empty && holds(&before, words))) && !holds(page, words);
    }
    return older;
}

/* What an owner reads when others have had the partition since may be theirs. */
static bool may_be(const redo_model *m, unsigned index, const uint64_t *words)
{
    if (holds(&m->now.pages[index], words))
        return true;
    return m->over && (m->gone || !is_older(m, index, words));
}

/* ---- mini-transactions ----------------------------------------------------------------------- */

static int set_field(redo_model *m, farpool_mtr *mtr, const model_page *page,
                     const model_change *change)
{
    size_t bytes = field_words(page) * sizeof(uint64_t);
    bool declared = draw(m, 2);
    void *words;
    int rc = declared ? farpool_mtr_fix_declared(mtr, page->pid, &words)
                      : farpool_mtr_fix(mtr, page->pid, &words);
    bool all = m->big && declared && draw(m, 2); /* fills the log faster */
    if (!rc && declared)
        rc = farpool_mtr_declare(mtr, page->pid, all ? 0 : (uint32_t)(change->field * bytes),
                                 (uint32_t)(all ? MODEL_FIELDS * bytes : bytes));
    if (!rc && !holds(page, words)) {
        MODEL_CHECK(may_be(m, change->index, words));
        rc = FARPOOL_E_FENCED;
    }
    if (!rc)
        fill_field(page, change->field, change->value, words);
    return rc;
}

/* A random change of the page; step notes it. */
static int change_page(redo_model *m, farpool_mtr *mtr, unsigned index, model_step *step)
{
    model_change *change = &step->changes[step->count++];
    const model_page *page = &m->now.pages[index];
    *change = (model_change){.index = index, .field = (unsigned)draw(m, MODEL_FIELDS)};
    if (!page->there) {
        void *words;
        change->kind = MODEL_ALLOC;
        change->order = (unsigned)draw(m, m->big ? ORDERS_MAX + 1 : 2 * ORDERS_MAX);
        change->order = change->order > ORDERS_MAX ? 0 : change->order;
        return farpool_mtr_alloc(mtr, change->order, &change->pid, &words);
    }
    if (index && draw(m, 8) == 0) {
        change->kind = MODEL_FREE;
        return farpool_mtr_free(mtr, page->pid);
    }
    change->kind = MODEL_FIELD;
    change->value = next_number(m);
    if (!index)
        change->field = 0;
    return set_field(m, mtr, page, change);
}

int model_commit(redo_model *m, farpool_partition *part, enum farpool_durability durability)
{
    farpool_mtr *mtr;
    model_step step = {0};
    uint64_t more = draw(m, MODEL_CHANGES), first = draw(m, MODEL_PAGES);
    int rc = farpool_mtr_begin(part, 0, &mtr);
    if (rc)
        return rc;
    rc = change_page(m, mtr, 0, &step);
    for (uint64_t i = 0; i < more && !rc; i++)
        rc = change_page(m, mtr, 1 + (unsigned)(first + i * 13) % (MODEL_PAGES - 1), &step);
    if (rc || draw(m, 20) == 0) {
        farpool_mtr_abandon(mtr);
        return rc;
    }
    m->pending = step;
    rc = farpool_mtr_commit(mtr, durability, &step.lsn);
    m->pending.count = 0;
    MODEL_CHECK(step.lsn || rc);
    if (step.lsn)
        push(m, &step);
    if (!rc && durability != FARPOOL_DURABLE_LATER)
        m->acked = m->count;
    if (!rc && durability == FARPOOL_DURABLE_STORAGE)
        m->stored = m->count;
    return rc;
}

int model_wait(redo_model *m, farpool_partition *part)
{
    unsigned upto = m->count;
    while (upto && draw(m, 3) == 0)
        upto--;
    uint64_t lsn = upto && upto < m->count ? m->steps[upto - 1].lsn : UINT64_MAX;
    if (!lsn) /* the tree tells no LSN */
        lsn = UINT64_MAX;
    if (lsn == UINT64_MAX)
        upto = m->count;
    int rc = farpool_wait_durable(part, lsn, FARPOOL_DURABLE_MEMORY);
    if (!rc && m->acked < upto)
        m->acked = upto;
    return rc;
}

int model_read(redo_model *m, farpool_partition *part)
{
    const model_page *page = &m->now.pages[draw(m, MODEL_PAGES)];
    void *words;
    if (!page->there)
        return 0;
    int rc = farpool_fix(part, page->pid, FARPOOL_SHARED, &words);
    if (rc)
        return rc;
    MODEL_CHECK(may_be(m, (unsigned)(page - m->now.pages), words));
    farpool_unfix(part, page->pid, FARPOOL_SHARED);
    return 0;
}

int model_create(redo_model *m, farpool_partition *part, uint64_t *random)
{
    farpool_btree *tree;
    memset(m, 0, sizeof *m);
    m->random = random;
    farpool_mtr *mtr;
    model_step step = {.count = 1};
    void *words;
    int rc = farpool_mtr_begin(part, 0, &mtr);
    if (rc)
        return rc;
    rc = farpool_mtr_alloc(mtr, 0, &step.changes[0].pid, &words);
    if (rc) {
        farpool_mtr_abandon(mtr);
        return rc;
    }
    rc = farpool_mtr_commit(mtr, FARPOOL_DURABLE_LATER, NULL);
    if (!rc)
        rc = farpool_btree_create(part, &m->root, &tree);
    if (rc)
        return rc;
    farpool_btree_close(tree);
    apply(&m->now, &step);
    m->base = m->now;
    return farpool_wait_durable(part, UINT64_MAX, FARPOOL_DURABLE_MEMORY);
}

/* ---- the tree -------------------------------------------------------------------------------- */

/* The number that the key's value is made of, 0: it is not there. */
static int look_up(const redo_model *m, farpool_btree *tree, unsigned index, uint64_t *number)
{
    char text[16];
    uint8_t found[VALUE_MAX], expected[VALUE_MAX];
    size_t len;
    int rc = farpool_btree_lookup(tree, key_of(index, text), found, sizeof found, &len);
    *number = 0;
    if (rc)
        return rc == FARPOOL_E_NOTFOUND ? 0 : rc;
    memcpy(number, found, sizeof *number);
    MODEL_CHECK(
        (*number && value_of(*number, expected).len == len && !memcmp(found, expected, len)) ||
        m->over);
    return 0;
}

int model_tree_op(redo_model *m, farpool_btree *tree, bool *in_doubt)
{
    char text[16];
    uint8_t bytes[VALUE_MAX];
    model_step step = {.count = 1};
    model_change *change = &step.changes[0];
    change->kind = MODEL_KEY;
    change->index = (unsigned)draw(m, MODEL_KEYS);
    bool deleted = draw(m, 4) == 0;
    uint64_t before = m->now.keys[change->index], now;
    farpool_slice key = key_of(change->index, text);
    change->value = deleted ? 0 : next_number(m);
    m->pending = step;
    int rc = deleted ? farpool_btree_delete(tree, key)
                     : farpool_btree_put(tree, key, value_of(change->value, bytes));
    m->pending.count = 0;
    if (deleted && !before && (rc == FARPOOL_E_NOTFOUND || !rc)) {
        MODEL_CHECK(rc == FARPOOL_E_NOTFOUND || m->over);
        return 0;
    }
    bool done = !rc;
    if (rc) {
        *in_doubt = look_up(m, tree, change->index, &now) != 0;
        MODEL_CHECK(*in_doubt || now == before || now == change->value || m->over);
        done = *in_doubt || now == change->value;
    }
    if (done)
        push(m, &step);
    return rc;
}

/* ---- another owner --------------------------------------------------------------------------- */

static int count_record(void *arg, farpool_slice key, farpool_slice value)
{
    (void)key, (void)value;
    ++*(unsigned *)arg;
    return 0;
}

static int read_keys(const redo_model *m, farpool_btree *tree, uint64_t *keys)
{
    unsigned there = 0, seen = 0;
    int rc = 0;
    for (unsigned i = 0; i < MODEL_KEYS && !rc; i++) {
        rc = look_up(m, tree, i, &keys[i]);
        there += keys[i] != 0;
    }
    if (!rc)
        rc = farpool_btree_scan(tree, (farpool_slice){0}, 0, count_record, &seen);
    if (!rc)
        MODEL_CHECK(seen == there || m->over);
    return rc;
}

static bool says_number(const model_step *step)
{
    return step->changes[0].kind == MODEL_FIELD && step->changes[0].index == 0;
}

/* How many steps have been made for the first page to be as it is. */
static int find_number(const redo_model *m, farpool_partition *part, unsigned *steps)
{
    void *words;
    int rc = farpool_fix(part, m->base.pages[0].pid, FARPOOL_SHARED, &words);
    if (rc)
        return rc;
    model_page page = m->base.pages[0];
    unsigned i = 0;
    while (!holds(&page, words)) {
        MODEL_CHECK(i < m->count || m->over); /* else it is none that ever was */
        if (i == m->count)
            break;
        if (says_number(&m->steps[i]))
            page.fields[0] = m->steps[i].changes[0].value;
        i++;
    }
    farpool_unfix(part, page.pid, FARPOOL_SHARED);
    *steps = i;
    return 0;
}

static int check_pages(const redo_model *m, const model_state *state, farpool_partition *part)
{
    for (unsigned i = 0; i < MODEL_PAGES; i++) {
        const model_page *page = &state->pages[i];
        void *words;
        if (!page->there)
            continue;
        int rc = farpool_fix(part, page->pid, FARPOOL_SHARED, &words);
        if (rc)
            return rc;
        MODEL_CHECK((farpool_page_order(part, page->pid) == page->order && holds(page, words)) ||
                    m->over);
        farpool_unfix(part, page->pid, FARPOOL_SHARED);
    }
    return 0;
}

int model_take_over(redo_model *m, farpool_partition *part, farpool_btree *tree)
{
    model_state state, best; /* others may do the same while this one waits */
    uint64_t keys[MODEL_KEYS];
    unsigned steps, found = 0;
    bool any = false;
    int rc = find_number(m, part, &steps);
    state = m->base;
    for (unsigned i = 0; i < steps && !rc; i++)
        apply(&state, &m->steps[i]);
    if (!rc)
        rc = check_pages(m, &state, part);
    if (!rc)
        rc = read_keys(m, tree, keys);
    if (!rc && m->over)
        rc = FARPOOL_E_FENCED;
    if (rc)
        return rc;
    for (;; apply(&state, &m->steps[steps++])) { /* the tree's steps until the next commit */
        if (!memcmp(state.keys, keys, sizeof keys)) {
            best = state;
            found = steps;
            any = true;
        }
        if (steps == m->count || says_number(&m->steps[steps]))
            break;
    }
    MODEL_CHECK(any);
    MODEL_CHECK(found >= m->acked);
    m->base = m->now = best;
    m->found = found;
    m->count = m->acked = m->stored = 0;
    return 0;
}
