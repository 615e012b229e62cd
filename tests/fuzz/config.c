/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that damaged configuration files and command lines of farpool-memnode, and damaged input files of the
 * command line tool, either work or are refused in words. The first byte says which of the two; in a configuration
 * the byte 1 ends the file and then each argument.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/error.h"
#include "common/wire.h"
#include "compute/cli/input.h"
#include "memnode/options.h"
#include "tests/lib/fuzz.h"

enum { ARGS_MAX = 20, SEPARATOR = 1 };

const unsigned fuzz_runs = 60000;

/* ---- both ------------------------------------------------------------------------------------ */

/* A file with this content, as a path. */
static const char *file_of(const uint8_t *data, size_t len)
{
    static char path[64];
    static int fd = -1;
    if (fd < 0)
        fd = memfd_create("fuzz", MFD_CLOEXEC);
    FUZZ_CHECK(fd >= 0 && !ftruncate(fd, 0) && pwrite(fd, data, len, 0) == (ssize_t)len);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return path;
}

static void check_refusal(int rc)
{
    const char *why = farpool_errmsg();
    FUZZ_CHECK(rc == FARPOOL_E_INVAL || rc == FARPOOL_E_TOO_BIG);
    FUZZ_CHECK(strlen(why) > 10 && strcmp(why, "no error") != 0);
}

/* ---- the memory node's options --------------------------------------------------------------- */

static void check_options(const fp_memnode_options *o)
{
    const fp_daemon_options *d = &o->daemon;
    if (d->help || d->version)
        return;
    FUZZ_CHECK(d->listen_count >= 1 && d->listen_count <= FP_SERVER_LISTENERS_MAX);
    for (unsigned i = 0; i < d->listen_count; i++) {
        fp_uri uri;
        FUZZ_CHECK(!fp_uri_parse(d->listen[i], &uri));
    }
    FUZZ_CHECK(o->extent_order == -1 ||
               (o->extent_order >= FP_EXTENT_ORDER_MIN && o->extent_order <= FP_EXTENT_ORDER_MAX));
    FUZZ_CHECK(o->numa_node >= -1 && o->numa_node <= 1023);
    FUZZ_CHECK(memchr(d->name, 0, sizeof d->name) && d->name[0]);
    FUZZ_CHECK(memchr(d->http, 0, sizeof d->http));
    FUZZ_CHECK(!d->http[0] || !fp_httpd_check_address(d->http));
    FUZZ_CHECK(memchr(d->ready_file, 0, sizeof d->ready_file));
    FUZZ_CHECK(d->log_level <= FP_LOG_DEBUG);
}

/* The next part of the data, as a string of its own. */
static char *part(const uint8_t **at, const uint8_t *end)
{
    const uint8_t *stop = memchr(*at, SEPARATOR, (size_t)(end - *at));
    size_t len = (size_t)((stop ? stop : end) - *at);
    char *text = malloc(len + 1); /* and what stands behind a zero byte is not seen */
    FUZZ_CHECK(text);
    memcpy(text, *at, len);
    text[len] = 0;
    *at = stop ? stop + 1 : end;
    return text;
}

static void fuzz_options(const uint8_t *data, size_t len)
{
    char program[] = "farpool-memnode", config[] = "--config";
    char *argv[ARGS_MAX + 4] = {program, config};
    const uint8_t *end = data + len;
    const uint8_t *stop = memchr(data, SEPARATOR, len);
    size_t file_len = stop ? (size_t)(stop - data) : len;
    char *path = strdup(file_of(data, file_len));
    const uint8_t *at = stop ? stop + 1 : end;
    int argc = 3, kept = 0;
    char *own[ARGS_MAX];
    FUZZ_CHECK(path);
    argv[2] = path;
    while (at < end && kept < ARGS_MAX) {
        char *arg = part(&at, end);
        /* No other file: it could be one that never ends. */
        own[kept++] = arg;
        if (strncmp(arg, "--c", 3) != 0)
            argv[argc++] = arg;
    }
    fp_memnode_options options;
    int rc = fp_memnode_options_parse(argc, argv, &options);
    if (rc)
        check_refusal(rc);
    else
        check_options(&options);
    while (kept > 0)
        free(own[--kept]);
    free(path);
}

/* ---- the command line tool's input ----------------------------------------------------------- */

static int compare_keys(farpool_slice a, farpool_slice b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = memcmp(a.data, b.data, len);
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

static void fuzz_input(const uint8_t *data, size_t len)
{
    cli_input input;
    int rc = cli_input_read(file_of(data, len), true, &input);
    if (rc)
        check_refusal(rc);
    size_t bytes = 0;
    for (size_t i = 0; i < input.count && !rc; i++) {
        const cli_record *r = &input.records[i];
        FUZZ_CHECK(r->key.len >= 1 && r->key.len <= FARPOOL_KEY_MAX);
        FUZZ_CHECK(r->value.len <= FARPOOL_VALUE_MAX && r->line >= 1);
        const char *value = r->value.data;
        FUZZ_CHECK(value >= input.text && value + r->value.len <= input.text + input.text_len);
        FUZZ_CHECK(!i || compare_keys(r[-1].key, r->key) < 0);
        bytes += r->key.len + r->value.len;
    }
    FUZZ_CHECK(rc || (bytes == input.bytes && !!input.cut_line == (data[len - 1] != '\n')));
    cli_input_free(&input);
}

void fuzz_one(const uint8_t *data, size_t len)
{
    if (!len)
        return;
    if (data[0] % 2)
        fuzz_input(data + 1, len - 1);
    else
        fuzz_options(data + 1, len - 1);
}

/* ---- inputs ---------------------------------------------------------------------------------- */

static const char *const lines[] = {
    "listen = tcp://127.0.0.1:0\n",
    "listen=verbs://[fe80::1]:7471 # the fast one\n",
    "listen = shm:///run/farpool.sock\n",
    "memory = 1.5g\n",
    "memory = 18446744073709551615t\n",
    "memory = 99999999999999999999999999\n",
    "extent-units = 32768\n",
    "numa-node = 0\n",
    "name = node of many names\n",
    "log-level = debug\n",
    "# a comment\n\n",
};

static const char *const args[] = {
    "--listen",
    "tcp://127.0.0.1:0",
    "--memory=64m",
    "--name",
    "x",
    "--help",
    "--version",
    "--numa-node=-1",
    "--ready-fd",
    "1",
    "--ready-file",
    "/tmp/ready",
    "--extent-units",
    "1048576",
    "--log-level=info",
    "-x",
    "--",
    "--lis",
    "--memory",
    "",
};

static const char *const packages[] = {
    "Package: libc6\nVersion: 2.36-9\nArchitecture: amd64\nDescription: GNU\n more of it\n\n",
    "Package: libc6\nArchitecture: i386\nVersion: 2.36-9\n\n",
    "Package: zlib1g\nVersion: 1:1.2\n",
    "Package: \nVersion: 3\n\n",
    "Version: 7\nPackage: a\n\n\n",
};

static const char *const records[] = {
    "key\tvalue\n", "key\tanother\n", "a\t\n", "\t\n", "plain line\n", "b\tc\td\n", "\n", "z\t",
};

static size_t put(uint8_t *data, size_t len, const char *text)
{
    size_t more = strlen(text);
    memcpy(data + len, text, more);
    return len + more;
}

#define ANY(list) (list)[test_random(random) % (sizeof(list) / sizeof(list)[0])]

size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity)
{
    uint64_t r = test_random(random);
    size_t len = 1;
    data[0] = (uint8_t)r;
    if (data[0] % 2) {
        for (uint64_t n = 1 + (r >> 8) % 8; n > 0; n--)
            len = put(data, len, (r >> 16) % 2 ? ANY(packages) : ANY(records));
    } else {
        for (uint64_t n = (r >> 8) % 6; n > 0; n--)
            len = put(data, len, ANY(lines));
        for (uint64_t n = (r >> 16) % 6; n > 0; n--) {
            data[len++] = SEPARATOR;
            len = put(data, len, ANY(args));
        }
    }
    return (r >> 24) % 8 ? 1 + fuzz_damage(random, data + 1, len - 1, capacity - 1) : len;
}
