/* SPDX-License-Identifier: Apache-2.0 */
#include "storagenode/tail.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

enum { BITS_MIN = 8, BLOCK_RECORDS = 2048 };

typedef struct fp_tail_block {
    struct fp_tail_block *next;
    size_t used;
    fp_tail_record records[BLOCK_RECORDS];
} fp_tail_block;

fp_log_piece *fp_log_piece_new(size_t bytes)
{
    fp_log_piece *piece = malloc(sizeof *piece);
    uint8_t *memory = aligned_alloc(FP_FILE_BLOCK, bytes);
    if (!piece || !memory) {
        free(piece);
        free(memory);
        return NULL;
    }
    *piece = (fp_log_piece){.refs = 1, .room = bytes, .bytes = memory};
    return piece;
}

void fp_log_piece_unref(fp_log_piece *piece)
{
    if (!piece || --piece->refs)
        return;
    free(piece->bytes);
    free(piece);
}

fp_tail *fp_tail_new(uint64_t from)
{
    fp_tail *tail = calloc(1, sizeof *tail);
    fp_tail_page *pages = calloc((size_t)1 << BITS_MIN, sizeof *pages);
    if (!tail || !pages) {
        free(tail);
        free(pages);
        return NULL;
    }
    *tail = (fp_tail){.refs = 1, .from = from, .to = from, .pages = pages, .bits = BITS_MIN};
    return tail;
}

void fp_tail_ref(fp_tail *tail) { tail->refs++; }

void fp_tail_unref(fp_tail *tail)
{
    if (!tail || --tail->refs)
        return;
    for (fp_tail_block *block = tail->blocks, *next; block; block = next) {
        next = block->next;
        free(block);
    }
    for (size_t i = 0; i < tail->piece_count; i++)
        fp_log_piece_unref(tail->pieces[i]);
    free(tail->pieces);
    free(tail->pages);
    free(tail);
}

/* ---- pages ----------------------------------------------------------------------------------- */

/* Its place, or the empty one where it would go. Multiplicative hashing: Knuth, TAOCP 6.4. */
static fp_tail_page *place_of(fp_tail_page *pages, unsigned bits, uint64_t pid)
{
    size_t mask = ((size_t)1 << bits) - 1, at = pid * 0x9e3779b97f4a7c15ull >> (64 - bits);
    while (pages[at].first && pages[at].pid != pid)
        at = (at + 1) & mask;
    return &pages[at];
}

static int grow(fp_tail *tail)
{
    size_t places = (size_t)1 << tail->bits;
    fp_tail_page *pages = calloc(2 * places, sizeof *pages);
    if (!pages)
        return fp_error(FARPOOL_E_NOMEM, "no memory for an index of %zu pages", places);
    for (size_t i = 0; i < places; i++)
        if (tail->pages[i].first)
            *place_of(pages, tail->bits + 1, tail->pages[i].pid) = tail->pages[i];
    free(tail->pages);
    tail->pages = pages;
    tail->bits++;
    return 0;
}

const fp_tail_record *fp_tail_find(const fp_tail *tail, uint64_t pid)
{
    return place_of(tail->pages, tail->bits, pid)->first;
}

static int compare_pages(const void *a, const void *b)
{
    uint64_t x = ((const fp_tail_page *)a)->pid, y = ((const fp_tail_page *)b)->pid;
    return x < y ? -1 : x > y;
}

fp_tail_page *fp_tail_sorted(const fp_tail *tail)
{
    fp_tail_page *sorted = malloc((tail->count + (size_t)1) * sizeof *sorted);
    size_t count = 0;
    for (size_t i = 0; sorted && i < (size_t)1 << tail->bits; i++)
        if (tail->pages[i].first)
            sorted[count++] = tail->pages[i];
    if (sorted)
        qsort(sorted, count, sizeof *sorted, compare_pages);
    return sorted;
}

/* ---- records --------------------------------------------------------------------------------- */

static fp_tail_record *take(fp_tail *tail)
{
    fp_tail_block *block = tail->blocks;
    if (!block || block->used == BLOCK_RECORDS) {
        block = malloc(sizeof *block);
        if (!block)
            return NULL;
        block->next = tail->blocks;
        block->used = 0;
        tail->blocks = block;
    }
    return &block->records[block->used++];
}

static int hold(fp_tail *tail, fp_log_piece *piece)
{
    if (tail->piece_count && tail->pieces[tail->piece_count - 1] == piece)
        return 0;
    if (tail->piece_count == tail->piece_room) {
        size_t room = 2 * tail->piece_room + 16;
        fp_log_piece **grown = realloc(tail->pieces, room * sizeof(fp_log_piece *));
        if (!grown)
            return fp_error(FARPOOL_E_NOMEM, "no memory for a list of %zu pieces of log", room);
        tail->pieces = grown;
        tail->piece_room = room;
    }
    piece->refs++;
    tail->pieces[tail->piece_count++] = piece;
    return 0;
}

static int add(fp_tail *tail, uint64_t lsn, const fp_redo_record *redo, const uint8_t *at)
{
    if (tail->count >= (size_t)3 << (tail->bits - 2)) {
        int rc = grow(tail);
        if (rc)
            return rc;
    }
    fp_tail_record *record = take(tail);
    if (!record)
        return fp_error(FARPOOL_E_NOMEM, "no memory for an index of log");
    *record = (fp_tail_record){.lsn = lsn, .redo = at};
    fp_tail_page *page = place_of(tail->pages, tail->bits, fp_redo_pid(redo));
    if (page->first) {
        page->last->next = record;
    } else {
        page->pid = fp_redo_pid(redo);
        page->first = record;
        tail->count++;
    }
    page->last = record;
    tail->bytes += sizeof(fp_delta_record) + fp_redo_pad(redo->len);
    return 0;
}

int fp_tail_add(fp_tail *tail, fp_log_piece *piece, const uint8_t *bytes)
{
    fp_redo_frame frame;
    memcpy(&frame, bytes, sizeof frame);
    FP_ASSERT(frame.lsn == tail->to);
    fp_redo_walk walk = fp_redo_walk_start(bytes);
    fp_redo_record redo;
    const void *data;
    int rc = hold(tail, piece);
    for (const uint8_t *at = walk.at; !rc && fp_redo_walk_next(&walk, &redo, &data); at = walk.at)
        rc = add(tail, frame.lsn + frame.len, &redo, at);
    if (!rc)
        tail->to += frame.len;
    return rc;
}
