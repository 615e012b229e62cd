/* SPDX-License-Identifier: Apache-2.0 */
/* Shows the transitions of the page word (rules W1..W8), and that no wake-up is lost in the parking lot. */
#include "compute/page_word.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "compute/io.h"
#include "compute/latency.h"
#include "compute/parking.h"

static void fields_do_not_touch(void **state)
{
    (void)state;
    uint64_t word = fp_word_with_state(7ull << FP_WORD_ORDER_SHIFT, FP_EXCLUSIVE);
    word |= FP_WORD_DIRTY | FP_WORD_WAITERS | FP_WORD_VERSION;
    uint64_t next = fp_word_next(word, FP_UNLOCKED);
    assert_int_equal(next & FP_WORD_VERSION, 0); /* wrapped, into nothing else */
    assert_int_equal(fp_word_order(next), 7);
    assert_int_equal(fp_word_state(next), FP_UNLOCKED);
    assert_true(next & FP_WORD_DIRTY);
    assert_false(next & FP_WORD_WAITERS);
}

static void who_may_read(void **state)
{
    (void)state;
    for (unsigned s = 0; s < 256; s++) {
        bool readable = s >= FP_MARKED && s <= FP_SHARED_MAX;
        assert_int_equal(fp_word_readable(fp_word_with_state(0, s)), readable);
        fp_entry entry = {.word = fp_word_with_state(5, s)};
        bool free_latch = s == FP_UNLOCKED || s == FP_MARKED;
        assert_int_equal(fp_word_try_exclusive(&entry, entry.word), free_latch);
    }
}

static void shared_counts_down(void **state)
{
    (void)state;
    fp_entry entry = {.word = fp_word_with_state(9, FP_SHARED_MIN + 1)};
    fp_shared_leave(&entry);
    assert_int_equal(fp_word_state(entry.word), FP_SHARED_MIN);
    fp_shared_leave(&entry);
    assert_int_equal(fp_word_state(entry.word), FP_UNLOCKED);
    assert_int_equal(entry.word & FP_WORD_VERSION, 9); /* readers leave the version alone */
}

static void latency_buckets(void **state)
{
    (void)state;
    unsigned last = 0;
    for (uint64_t ns = 0; ns < 100000; ns++) {
        unsigned bucket = fp_latency_bucket(ns);
        assert_true(bucket == last || bucket == last + 1);
        assert_true(ns <= fp_latency_bucket_max(bucket));
        assert_true(bucket == 0 || ns > fp_latency_bucket_max(bucket - 1));
        last = bucket;
    }
    assert_int_equal(fp_latency_bucket(UINT64_MAX), FARPOOL_LATENCY_BUCKETS - 1);
}

enum { THREADS = 4, ROUNDS = 20000 };
static fp_entry shared_entry;
static long guarded; /* by shared_entry */

static void *lock_and_count(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t word;
        while (word = fp_word_load(&shared_entry), !fp_word_try_exclusive(&shared_entry, word))
            if (fp_word_state(word) == FP_EXCLUSIVE)
                fp_park(&shared_entry, word, 5000000); /* a lost wake-up would cost seconds */
        guarded++;
        fp_entry_leave(&shared_entry, FP_UNLOCKED, 0, 0);
    }
    return NULL;
}

static void no_wake_up_is_lost(void **state)
{
    (void)state;
    shared_entry.word = fp_word_with_state(0, FP_UNLOCKED);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, lock_and_count, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(guarded, THREADS * ROUNDS);
    assert_int_equal(shared_entry.word & FP_WORD_VERSION, THREADS * ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_do_not_touch), cmocka_unit_test(who_may_read),
        cmocka_unit_test(shared_counts_down),  cmocka_unit_test(latency_buckets),
        cmocka_unit_test(no_wake_up_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
