/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page word: the one shared object that everything turns on. After vmcache (Leis et al., "Virtual-
 * Memory Assisted Buffer Management", SIGMOD 2023).
 *
 *   63      56 55   52 51    50      49                0
 *   [ state  ] [order] [dirty][waiters] [    version     ]
 *
 *                          alloc
 *       FREE ───────────────────────────────► EXCLUSIVE ◄──── fault ─── EVICTED
 *        ▲                                     ▲    │  │                   ▲
 *        └──────────── page_free ──────────────┼────┼──┘                   │
 *                                        latch │    │ unlatch (version+1)  │ drop (version+1)
 *      SHARED 1..250 ◄── latch/unlatch ──► UNLOCKED ◄┘                     │
 *                                          ▲     │ clock      EXCLUSIVE ───┘
 *                                    touch └── MARKED ── evict ──►
 *
 * Rules, cited from the code as W1..W8
 *   W1  Whoever moves a word to EXCLUSIVE (or to SHARED) owns that latch; nobody else changes the
 *       entry's frame and slot, or the order and version of the word, while it is EXCLUSIVE.
 *   W2  The version grows by one whenever EXCLUSIVE is left, so a reader that sees the same version
 *       and no EXCLUSIVE before and after has read what was true in between.
 *   W3  Pairs: every release (exchange or CAS that leaves EXCLUSIVE or SHARED) pairs with the acquire
 *       of the next latch or fp_word_load. An optimistic reader's acquire fence before its second look
 *       pairs with the release at which a writer took the latch.
 *   W4  dirty is set on leaving EXCLUSIVE by a writer and cleared under SHARED by write-back.
 *   W5  waiters is set by a thread about to sleep (compute/parking.h) in a state that it can't use;
 *       whoever leaves EXCLUSIVE, or makes SHARED to UNLOCKED, clears it and wakes them. While it is
 *       set nobody joins SHARED: readers who come and go could keep a writer out for ever.
 *   W6  MARKED and UNLOCKED mean the same but to the clock: MARKED was not touched since its last pass.
 *   W7  A page in EVICTED or FREE has no frame. One in EVICTED has its newest copy in its slot, and
 *       its entry holds the CRC-32C of that copy where the frame was: so a READ needs no header to
 *       prove that it brought this very version. An optimistic reader who may have taken the one for
 *       the other looks at the word again (the release store of the CRC pairs with its acquire).
 *   W8  Only the word of a page's first unit is used.
 */
#ifndef FP_COMPUTE_PAGE_WORD_H
#define FP_COMPUTE_PAGE_WORD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    FP_FREE = 0, /* zeroed memory is an empty page space */
    FP_EVICTED = 1,
    FP_MARKED = 2,
    FP_UNLOCKED = 3,
    FP_SHARED_MIN = 4, /* one reader */
    FP_SHARED_MAX = 253,
    FP_EXCLUSIVE = 255,
};

#define FP_WORD_STATE_SHIFT 56
#define FP_WORD_ORDER_SHIFT 52
#define FP_WORD_DIRTY (1ull << 51)
#define FP_WORD_WAITERS (1ull << 50)
#define FP_WORD_VERSION (FP_WORD_WAITERS - 1)

/* One per unit of address space; 16 bytes, four in a cache line. */
typedef struct fp_entry {
    _Alignas(16) _Atomic uint64_t word;
    _Atomic uint32_t frame_or_crc; /* W1, W7: of a page that is here its frame */
    _Atomic uint32_t slot;         /* W1; slot of the slab, fixed from alloc to free */
} fp_entry;

_Static_assert(sizeof(fp_entry) == 16, "entry");

static inline unsigned fp_word_state(uint64_t word)
{
    return (unsigned)(word >> FP_WORD_STATE_SHIFT);
}

static inline unsigned fp_word_order(uint64_t word)
{
    return (unsigned)(word >> FP_WORD_ORDER_SHIFT) & 15;
}

static inline uint64_t fp_word_with_state(uint64_t word, unsigned state)
{
    return (word & ((1ull << FP_WORD_STATE_SHIFT) - 1)) | (uint64_t)state << FP_WORD_STATE_SHIFT;
}

/* The word in another state, one version later and with nobody waiting (W2, W5). */
static inline uint64_t fp_word_next(uint64_t word, unsigned state)
{
    uint64_t version = (word + 1) & FP_WORD_VERSION;
    word &= ~(FP_WORD_VERSION | FP_WORD_WAITERS);
    return fp_word_with_state(word, state) | version;
}

static inline uint64_t fp_word_load(fp_entry *entry)
{
    return atomic_load_explicit(&entry->word, memory_order_acquire);
}

static inline bool fp_word_cas(fp_entry *entry, uint64_t *expected, uint64_t desired)
{
    return atomic_compare_exchange_strong_explicit(&entry->word, expected, desired,
                                                   memory_order_acq_rel, memory_order_acquire);
}

/* The page is here and no writer has it: it may be read optimistically. */
static inline bool fp_word_readable(uint64_t word)
{
    unsigned state = fp_word_state(word);
    return state >= FP_MARKED && state <= FP_SHARED_MAX;
}

/* Takes the exclusive latch if nobody has the page latched. */
static inline bool fp_word_try_exclusive(fp_entry *entry, uint64_t word)
{
    unsigned state = fp_word_state(word);
    return (state == FP_UNLOCKED || state == FP_MARKED) &&
           fp_word_cas(entry, &word, fp_word_with_state(word, FP_EXCLUSIVE));
}

#endif
