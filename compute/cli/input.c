/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cli/input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"

enum { LINE_KEY_BYTES = 12 };

static int read_all(const char *path, cli_input *input)
{
    int fd = strcmp(path, "-") != 0 ? open(path, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
    if (fd < 0)
        return fp_error_sys("%s: opening", path);
    size_t room = 0;
    ssize_t n = 1;
    int rc = 0;
    while (n > 0 && !rc) {
        if (room - input->text_len < 1 << 16) {
            room = room ? 2 * room : 1 << 20;
            char *grown = realloc(input->text, room);
            if (!grown) {
                rc = fp_error(FARPOOL_E_NOMEM, "%s: no memory for its %zu bytes", path, room);
                break;
            }
            input->text = grown;
        }
        n = read(fd, input->text + input->text_len, room - input->text_len);
        if (n < 0 && errno == EINTR)
            n = 1;
        else if (n < 0)
            rc = fp_error_sys("%s: reading", path);
        else
            input->text_len += (size_t)n;
    }
    if (fd != STDIN_FILENO)
        close(fd);
    if (!rc && !input->text_len)
        rc = fp_error(FARPOOL_E_INVAL, "%s is empty", path);
    return rc;
}

static int add(cli_input *input, const char *path, uint64_t line, farpool_slice key,
               farpool_slice value)
{
    if (!key.len || key.len > FARPOOL_KEY_MAX)
        return fp_error(FARPOOL_E_TOO_BIG, "%s:%llu: a key of %zu bytes; 1 to %u are possible",
                        path, (unsigned long long)line, key.len, FARPOOL_KEY_MAX);
    if (value.len > FARPOOL_VALUE_MAX)
        return fp_error(FARPOOL_E_TOO_BIG, "%s:%llu: a value of %zu bytes; at most %u are possible",
                        path, (unsigned long long)line, value.len, FARPOOL_VALUE_MAX);
    if (input->count == input->room) {
        size_t room = input->room ? 2 * input->room : 4096;
        cli_record *grown = realloc(input->records, room * sizeof *grown);
        if (!grown)
            return fp_error(FARPOOL_E_NOMEM, "%s: no memory for %zu records", path, room);
        input->records = grown;
        input->room = room;
    }
    input->records[input->count++] = (cli_record){key, value, line};
    return 0;
}

/* A key that stands nowhere in the text: the caller's copy becomes the input's. */
static int keep_key(cli_input *input, char *key)
{
    if (input->key_count == input->key_room) {
        size_t room = input->key_room ? 2 * input->key_room : 4096;
        char **grown = realloc(input->keys, room * sizeof *grown);
        if (!grown) {
            free(key);
            return fp_error(FARPOOL_E_NOMEM, "no memory for %zu keys", room);
        }
        input->keys = grown;
        input->key_room = room;
    }
    input->keys[input->key_count++] = key;
    return 0;
}

/* The value of "Name: value" if the line begins so. */
static bool field(const char *line, size_t len, const char *name, farpool_slice *value)
{
    size_t n = strlen(name);
    if (len < n + 2 || memcmp(line, name, n) != 0 || line[n] != ':')
        return false;
    n++;
    while (n < len && line[n] == ' ')
        n++;
    *value = (farpool_slice){line + n, len - n};
    return true;
}

static int add_paragraph(cli_input *input, const char *path, uint64_t line, farpool_slice name,
                         farpool_slice version, farpool_slice text)
{
    if (!name.len || !version.len)
        return fp_error(FARPOOL_E_INVAL, "%s:%llu: a package record without Package or Version",
                        path, (unsigned long long)line);
    char *key = NULL;
    int len = asprintf(&key, "%.*s=%.*s", (int)name.len, (const char *)name.data, (int)version.len,
                       (const char *)version.data);
    if (len < 0)
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory for a key", path);
    int rc = keep_key(input, key);
    return rc ? rc : add(input, path, line, (farpool_slice){key, (size_t)len}, text);
}

static int parse_packages(cli_input *input, const char *path)
{
    const char *at = input->text, *end = at + input->text_len, *start = at;
    farpool_slice name = {0}, version = {0};
    uint64_t number = 0, first = 1;
    int rc = 0;
    while (at < end && !rc) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const char *next = stop ? stop + 1 : end;
        size_t len = (size_t)((stop ? stop : end) - at);
        number++;
        if (!len || next == end) {
            if (len) { /* the last line of the file */
                field(at, len, "Package", &name);
                field(at, len, "Version", &version);
            }
            const char *limit = len ? next : at;
            if (limit > start)
                rc = add_paragraph(input, path, first, name, version,
                                   (farpool_slice){start, (size_t)(limit - start)});
            name = version = (farpool_slice){0};
            start = next;
            first = number + 1;
        } else {
            field(at, len, "Package", &name);
            field(at, len, "Version", &version);
        }
        at = next;
    }
    return rc;
}

/* KEY<tab>VALUE, or whole lines if tabs is false. */
static int parse_lines(cli_input *input, const char *path, bool tabs)
{
    const char *at = input->text, *end = at + input->text_len;
    uint64_t number = 0;
    int rc = 0;
    while (at < end && !rc) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((stop ? stop : end) - at);
        number++;
        if (tabs) {
            const char *tab = memchr(at, '\t', len);
            if (!tab)
                return fp_error(FARPOOL_E_INVAL,
                                "%s:%llu: no tab in this line, though the first line has one "
                                "(expected KEY<tab>VALUE)",
                                path, (unsigned long long)number);
            size_t key_len = (size_t)(tab - at);
            rc = add(input, path, number, (farpool_slice){at, key_len},
                     (farpool_slice){tab + 1, len - key_len - 1});
        } else {
            char *key = NULL;
            if (asprintf(&key, "%0*llu", LINE_KEY_BYTES, (unsigned long long)number) < 0)
                return fp_error(FARPOOL_E_NOMEM, "%s: no memory for a key", path);
            rc = keep_key(input, key);
            if (!rc)
                rc = add(input, path, number, (farpool_slice){key, strlen(key)},
                         (farpool_slice){at, len});
        }
        at = stop ? stop + 1 : end;
    }
    return rc;
}

static int compare(const void *a, const void *b)
{
    const cli_record *x = a, *y = b;
    size_t len = x->key.len < y->key.len ? x->key.len : y->key.len;
    int order = memcmp(x->key.data, y->key.data, len);
    if (order)
        return order;
    if (x->key.len != y->key.len)
        return x->key.len < y->key.len ? -1 : 1;
    return (x->line > y->line) - (x->line < y->line);
}

/* Sorts by key; of several records with one key the last in the file stays. */
static void sort(cli_input *input)
{
    qsort(input->records, input->count, sizeof *input->records, compare);
    size_t kept = 0;
    for (size_t i = 0; i < input->count; i++) {
        const cli_record *record = &input->records[i], *next = record + 1;
        if (i + 1 < input->count && record->key.len == next->key.len &&
            !memcmp(record->key.data, next->key.data, record->key.len)) {
            input->duplicates++;
            continue;
        }
        input->bytes += record->key.len + record->value.len;
        input->records[kept++] = *record;
    }
    input->count = kept;
}

int cli_input_read(const char *path, cli_input *input)
{
    memset(input, 0, sizeof *input);
    int rc = read_all(path, input);
    if (rc)
        return rc;
    const char *stop = memchr(input->text, '\n', input->text_len);
    size_t first = stop ? (size_t)(stop - input->text) : input->text_len;
    if (first > 9 && !memcmp(input->text, "Package: ", 9))
        rc = parse_packages(input, path);
    else
        rc = parse_lines(input, path, memchr(input->text, '\t', first) != NULL);
    if (!rc)
        sort(input);
    return rc;
}

void cli_input_free(cli_input *input)
{
    for (size_t i = 0; i < input->key_count; i++)
        free(input->keys[i]);
    free(input->keys);
    free(input->records);
    free(input->text);
}
