/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that every disk keeps the contract: data and names are as they should be, each request completes once, also
 * many at a time and on close (D1 to D5, D10 to D14). Its errors are in disk_errors.c. */
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/clock.h"
#include "tests/lib/disk_scope.h"

enum { BLOCK = FP_DISK_ALIGN, MANY = 1000 };

static uint64_t file_size(fp_disk *disk, fp_disk_file *file)
{
    fp_disk_req req = {.kind = FP_DISK_SIZE, .file = file};
    assert_int_equal(disk_do(disk, &req), 0);
    return req.size;
}

/* D4, D5 */
static void what_is_written_is_read(void **state)
{
    (void)state;
    static const size_t sizes[] = {BLOCK, 3 * BLOCK, 256 * BLOCK};
    fp_disk *disk = disk_begin(NULL);
    fp_disk_file *file = disk_open_file(disk, "data", FP_DISK_CREATE);
    uint8_t *in = disk_buffer(256 * BLOCK, 0), *out = disk_buffer(256 * BLOCK, 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t k = 0; k < sizes[i]; k++)
            in[k] = (uint8_t)(k * 7 + (k >> 8) + i);
        assert_int_equal(disk_write(disk, file, 5 * BLOCK, in, sizes[i]), 0);
        assert_int_equal(disk_read(disk, file, 5 * BLOCK, out, sizes[i]), 0);
        assert_memory_equal(in, out, sizes[i]);
    }
    assert_int_equal(file_size(disk, file), 261 * BLOCK);
    memset(in, 0, 5 * BLOCK); /* what was skipped */
    assert_int_equal(disk_read(disk, file, 0, out, 5 * BLOCK), 0);
    assert_memory_equal(in, out, 5 * BLOCK);
    assert_int_equal(disk_file_op(disk, FP_DISK_SYNC, file, 0), 0);
    disk = disk_again(disk); /* closes the file, too */
    file = disk_open_file(disk, "data", FP_DISK_READ_ONLY);
    assert_int_equal(disk_read(disk, file, 7 * BLOCK, out, BLOCK), 0);
    assert_int_equal(out[1], (uint8_t)((2 * BLOCK + 1) * 7 + ((2 * BLOCK + 1) >> 8) + 2));
    assert_int_equal(disk_close_file(disk, file), 0);
    free(in);
    free(out);
    disk_end(disk);
}

/* ---- many at a time -------------------------------------------------------------------------- */

typedef struct many {
    fp_disk_req reqs[MANY];
    unsigned calls[MANY];
    unsigned done, statuses[2]; /* 0, E_CLOSED */
    bool submitting, again;
} many;

static void one_of_many(fp_disk_req *req)
{
    many *m = req->user;
    assert_false(m->submitting); /* D1 */
    m->calls[req - m->reqs]++;
    m->done++;
    assert_true(req->status == 0 || req->status == FARPOOL_E_CLOSED);
    m->statuses[req->status != 0]++;
}

static void submit_many(fp_disk *disk, many *m, enum fp_disk_kind kind, fp_disk_file *file,
                        uint8_t *memory)
{
    memset(m, 0, sizeof *m);
    m->submitting = true;
    for (unsigned i = 0; i < MANY; i++) {
        m->reqs[i] = (fp_disk_req){.kind = kind,
                                   .file = file,
                                   .offset = (uint64_t)(i * 7 % MANY) * BLOCK,
                                   .len = BLOCK,
                                   .buffer = memory + (size_t)(i * 7 % MANY) * BLOCK,
                                   .done = one_of_many,
                                   .user = m};
        fp_disk_submit(disk, &m->reqs[i]);
    }
    m->submitting = false;
}

static void check_once(const many *m)
{
    assert_int_equal(m->done, MANY);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(m->calls[i], 1);
}

/* D1, D12 */
static void many_requests_in_flight(void **state)
{
    (void)state;
    static const unsigned depths[] = {1, 16, 0};
    uint8_t *in = disk_buffer((size_t)MANY * BLOCK, 0), *out = disk_buffer((size_t)MANY * BLOCK, 0);
    many *m = calloc(1, sizeof *m);
    for (size_t k = 0; k < (size_t)MANY * BLOCK; k++)
        in[k] = (uint8_t)(k * 31 + k / BLOCK);
    for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        fp_disk *disk = disk_begin(&(fp_disk_options){.depth = depths[i]});
        fp_disk_file *file = disk_open_file(disk, "data", FP_DISK_CREATE);
        submit_many(disk, m, FP_DISK_WRITE, file, in);
        disk_wait(disk, &m->done, MANY);
        check_once(m);
        memset(out, 0, (size_t)MANY * BLOCK);
        submit_many(disk, m, FP_DISK_READ, file, out);
        disk_wait(disk, &m->done, MANY);
        check_once(m);
        assert_memory_equal(in, out, (size_t)MANY * BLOCK);
        assert_int_equal(fp_disk_poll(disk, 0), 0);
        assert_int_equal(disk_close_file(disk, file), 0);
        disk_end(disk);
    }
    free(in);
    free(out);
    free(m);
}

static unsigned open_descriptors(void)
{
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static void once_more(fp_disk_req *req)
{
    many *m = req->user;
    if (m->again)
        return;
    m->again = true;
    fp_disk_submit(req->own.disk, req);
}

/* D1, D11 */
static void close_completes_everything(void **state)
{
    (void)state;
    unsigned before = open_descriptors();
    uint8_t *memory = disk_buffer((size_t)MANY * BLOCK, 1);
    many *m = calloc(1, sizeof *m);
    for (unsigned polls = 0; polls < 3; polls++) {
        fp_disk *disk = disk_begin(&(fp_disk_options){.depth = 8});
        fp_disk_file *file = disk_open_file(disk, "data", FP_DISK_CREATE);
        submit_many(disk, m, FP_DISK_WRITE, file, memory);
        fp_disk_req unlink = {
            .kind = FP_DISK_UNLINK, .name = "nobody", .done = once_more, .user = m};
        fp_disk_submit(disk, &unlink);
        for (unsigned i = 0; i < polls; i++)
            assert_true(fp_disk_poll(disk, 0) >= 0);
        disk = disk_again(disk);
        check_once(m);
        assert_true(m->statuses[1]); /* more than were in the kernel */
        assert_int_equal(unlink.status, FARPOOL_E_CLOSED);
        assert_true(m->again);
        disk_end(disk);
    }
    assert_int_equal(open_descriptors(), before);
    free(memory);
    free(m);
}

static void chain(fp_disk_req *req)
{
    assert_int_equal(req->status, 0);
    if (++*(unsigned *)req->user == 100)
        return;
    req->offset += BLOCK;
    fp_disk_submit(req->own.disk, req);
}

/* D3, D13 */
static void done_may_submit(void **state)
{
    (void)state;
    fp_disk *disk = disk_begin(NULL);
    fp_disk_file *file = disk_open_file(disk, "data", FP_DISK_CREATE);
    unsigned done = 0;
    fp_disk_req req = {.kind = FP_DISK_WRITE,
                       .file = file,
                       .len = BLOCK,
                       .buffer = disk_buffer(BLOCK, 9),
                       .done = chain,
                       .user = &done};
    fp_disk_submit(disk, &req);
    disk_wait(disk, &done, 100);
    assert_int_equal(file_size(disk, file), 100 * BLOCK);
    free(req.buffer);
    disk_end(disk);
}

/* ---- work ------------------------------------------------------------------------------------ */

typedef struct labour {
    many m;
    uint64_t
        numbers[MANY]; /* by turns of work() and of whoever submits; nothing guards them but D14 */
    unsigned worked[MANY];
    bool working; /* one at a time */
    pthread_t submitter;
} labour;

static void work_one(fp_disk_req *req)
{
    labour *l = (labour *)req->user;
    size_t i = (size_t)(req - l->m.reqs);
    assert_false(l->working);
    l->working = true;
    assert_int_equal(pthread_equal(pthread_self(), l->submitter) != 0, disk_is_sim());
    l->worked[i]++;
    l->numbers[i] = 3 * l->numbers[i] + 1;
    l->working = false;
}

static void submit_labour(fp_disk *disk, labour *l)
{
    memset(l, 0, sizeof *l);
    l->submitter = pthread_self();
    l->m.submitting = true;
    for (unsigned i = 0; i < MANY; i++) {
        l->numbers[i] = i;
        l->m.reqs[i] =
            (fp_disk_req){.kind = FP_DISK_WORK, .work = work_one, .done = one_of_many, .user = l};
        fp_disk_submit(disk, &l->m.reqs[i]);
    }
    l->m.submitting = false;
}

/* D14, with other requests between; and with so few slots that some wait for one. */
static void work_is_done_once(void **state)
{
    (void)state;
    static const unsigned depths[] = {1, 16, 0};
    uint8_t *memory = disk_buffer((size_t)MANY * BLOCK, 7);
    labour *l = calloc(1, sizeof *l);
    many *m = calloc(1, sizeof *m);
    for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        fp_disk *disk = disk_begin(&(fp_disk_options){.depth = depths[i]});
        fp_disk_file *file = disk_open_file(disk, "data", FP_DISK_CREATE);
        submit_labour(disk, l);
        submit_many(disk, m, FP_DISK_WRITE, file, memory);
        disk_wait(disk, &l->m.done, MANY);
        disk_wait(disk, &m->done, MANY);
        check_once(&l->m);
        for (unsigned k = 0; k < MANY; k++) {
            assert_int_equal(l->worked[k], 1);
            assert_int_equal(l->numbers[k], 3 * k + 1);
            assert_int_equal(l->m.reqs[k].status, 0);
        }
        assert_int_equal(disk_close_file(disk, file), 0);
        disk_end(disk);
    }
    free(memory);
    free(l);
    free(m);
}

/* D11, D14 */
static void close_waits_for_work(void **state)
{
    (void)state;
    labour *l = calloc(1, sizeof *l);
    for (unsigned polls = 0; polls < 3; polls++) {
        fp_disk *disk = disk_begin(&(fp_disk_options){.depth = 8});
        submit_labour(disk, l);
        for (unsigned i = 0; i < polls; i++)
            assert_true(fp_disk_poll(disk, 0) >= 0);
        disk = disk_again(disk);
        check_once(&l->m);
        assert_true(l->m.statuses[1]); /* more than were given to the thread */
        for (unsigned k = 0; k < MANY; k++) {
            assert_true(l->worked[k] <= 1);
            assert_true(l->worked[k] || l->m.reqs[k].status);
        }
        disk_end(disk);
    }
    free(l);
}

/* ---- files and names ------------------------------------------------------------------------- */

static void sizes_are_set(void **state)
{
    (void)state;
    fp_disk *disk = disk_begin(NULL);
    fp_disk_file *file = disk_open_file(disk, "data", FP_DISK_CREATE);
    uint8_t *block = disk_buffer(BLOCK, 5), *zeros = disk_buffer(BLOCK, 0);
    assert_int_equal(file_size(disk, file), 0);
    if (disk_file_op(disk, FP_DISK_ALLOCATE, file, 64 * BLOCK) == FARPOOL_E_UNSUPPORTED)
        print_message("ALLOCATE is not supported on %s\n", disk_dir());
    else
        assert_int_equal(file_size(disk, file), 64 * BLOCK);
    assert_int_equal(disk_file_op(disk, FP_DISK_TRUNCATE, file, 64 * BLOCK), 0);
    assert_int_equal(disk_write(disk, file, 63 * BLOCK, block, BLOCK), 0);
    assert_int_equal(disk_file_op(disk, FP_DISK_TRUNCATE, file, 2 * BLOCK), 0);
    assert_int_equal(file_size(disk, file), 2 * BLOCK);
    assert_int_equal(disk_file_op(disk, FP_DISK_TRUNCATE, file, 64 * BLOCK), 0);
    assert_int_equal(disk_read(disk, file, 63 * BLOCK, block, BLOCK), 0);
    assert_memory_equal(block, zeros, BLOCK);
    assert_int_equal(disk_close_file(disk, file), 0);
    free(block);
    free(zeros);
    disk_end(disk);
}

static void check_names(fp_disk *disk, const char *const *wanted, size_t count)
{
    fp_disk_req list = {.kind = FP_DISK_LIST};
    assert_int_equal(disk_do(disk, &list), 0);
    assert_int_equal(list.size, count);
    const char *name = list.names;
    for (size_t i = 0; i < count; i++, name += strlen(name) + 1)
        assert_string_equal(name, wanted[i]);
    assert_int_equal(*name, 0);
    free(list.names);
}

static void names_change(void **state)
{
    (void)state;
    fp_disk *disk = disk_begin(NULL);
    check_names(disk, NULL, 0);
    fp_disk_file *b = disk_open_file(disk, "b", FP_DISK_CREATE);
    fp_disk_file *a = disk_open_file(disk, "a", FP_DISK_CREATE);
    uint8_t *block = disk_buffer(BLOCK, 'b');
    assert_int_equal(disk_write(disk, b, 0, block, BLOCK), 0);
    check_names(disk, (const char *const[]){"a", "b"}, 2);
    assert_int_equal(disk_rename(disk, "b", "a", false), FARPOOL_E_EXISTS);
    assert_int_equal(disk_rename(disk, "b", "c", false), 0);
    assert_string_equal(fp_disk_file_name(b), "c");
    check_names(disk, (const char *const[]){"a", "c"}, 2);
    assert_int_equal(disk_rename(disk, "c", "a", true), 0);
    check_names(disk, (const char *const[]){"a"}, 1);
    fp_disk_req sync = {.kind = FP_DISK_SYNC_DIR};
    assert_int_equal(disk_do(disk, &sync), 0);
    assert_int_equal(file_size(disk, a), 0); /* the one that was replaced is still open */
    fp_disk_file *again = disk_open_file(disk, "a", FP_DISK_EXISTING);
    memset(block, 0, BLOCK);
    assert_int_equal(disk_read(disk, again, 0, block, BLOCK), 0);
    assert_int_equal(block[17], 'b');
    assert_int_equal(disk_unlink(disk, "a"), 0);
    check_names(disk, NULL, 0);
    assert_int_equal(disk_write(disk, again, BLOCK, block, BLOCK), 0); /* open files stay usable */
    assert_int_equal(disk_read(disk, b, BLOCK, block, BLOCK), 0);
    fp_disk_file *files[] = {a, b, again};
    for (int i = 0; i < 3; i++)
        assert_int_equal(disk_close_file(disk, files[i]), 0);
    free(block);
    disk_end(disk);
}

/* ---- waiting --------------------------------------------------------------------------------- */

static uint64_t now_ns(void) { return disk_is_sim() ? fp_sim_now_ns(disk_world()) : fp_now_ns(); }

/* D10 */
static void poll_waits_as_told(void **state)
{
    (void)state;
    fp_disk *disk = disk_begin(NULL);
    uint64_t start = now_ns();
    assert_int_equal(fp_disk_poll(disk, 0), 0);
    assert_true(now_ns() - start < 1000000000);
    start = now_ns();
    assert_int_equal(fp_disk_poll(disk, 50), 0);
    assert_true(now_ns() - start >= 49000000);
    disk_end(disk);
}

static void mark(fp_disk_req *req) { ++*(unsigned *)req->user; }

static void the_descriptor_tells_of_completions(void **state)
{
    (void)state;
    fp_disk *disk = disk_begin(&(fp_disk_options){.depth = 2});
    struct pollfd wait = {.fd = fp_disk_fd(disk), .events = POLLIN};
    if (disk_is_sim()) {
        assert_int_equal(wait.fd, -1);
        disk_end(disk);
        return;
    }
    fp_disk_file *file = disk_open_file(disk, "data", FP_DISK_CREATE);
    void *block = disk_buffer(BLOCK, 3);
    fp_disk_req reqs[20];
    unsigned done = 0;
    for (unsigned i = 0; i < 20; i++) {
        reqs[i] = (fp_disk_req){.kind = i % 2 ? FP_DISK_SYNC : FP_DISK_WRITE,
                                .file = file,
                                .buffer = block,
                                .len = BLOCK,
                                .offset = (uint64_t)i * BLOCK,
                                .done = mark,
                                .user = &done};
        fp_disk_submit(disk, &reqs[i]);
    }
    while (done < 20) {
        int n = fp_disk_poll(disk, 0);
        assert_true(n >= 0);
        if (!n)
            assert_int_equal(poll(&wait, 1, DISK_WAIT_MS), 1);
    }
    free(block);
    disk_end(disk);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(many_requests_in_flight),
        cmocka_unit_test(close_completes_everything),
        cmocka_unit_test(done_may_submit),
        cmocka_unit_test(work_is_done_once),
        cmocka_unit_test(close_waits_for_work),
        cmocka_unit_test(sizes_are_set),
        cmocka_unit_test(names_change),
        cmocka_unit_test(poll_waits_as_told),
        cmocka_unit_test(the_descriptor_tells_of_completions),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return disk_for_each(group); }
