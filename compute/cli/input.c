/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cli/input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"

enum {
    LINE_KEY_BYTES = 12,
    RECORD_EXTRA = 64,   /* of a record in its node, and of a value's own page, at most */
    OWN_PAGE_FROM = 700, /* a record of fewer bytes than this stands whole in its leaf */
};

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
    input->records[input->count++] = (cli_record){.key = key, .value = value, .line = line};
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
            fp_error(FARPOOL_E_NOMEM, "no memory for %zu keys", room);
            return FARPOOL_E_NOMEM; /* in the open, for the analyser: key is gone */
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

/* The key of a package record; fields are bounded by the longest key before they are copied. */
static int package_key(cli_input *input, const char *path, uint64_t line, farpool_slice name,
                       farpool_slice arch, farpool_slice version, farpool_slice *key)
{
    size_t len = name.len + version.len + 1 + (arch.len ? arch.len + 1 : 0);
    if (len > FARPOOL_KEY_MAX)
        return fp_error(FARPOOL_E_TOO_BIG, "%s:%llu: a key of %zu bytes; 1 to %u are possible",
                        path, (unsigned long long)line, len, FARPOOL_KEY_MAX);
    char *text = malloc(len);
    if (!text)
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory for a key", path);
    char *at = mempcpy(text, name.data, name.len);
    if (arch.len) {
        *at++ = ':';
        at = mempcpy(at, arch.data, arch.len);
    }
    *at++ = '=';
    memcpy(at, version.data, version.len);
    *key = (farpool_slice){text, len};
    return keep_key(input, text);
}

typedef struct fields {
    farpool_slice name, version, arch;
} fields;

static void see_fields(const char *line, size_t len, fields *f)
{
    field(line, len, "Package", &f->name);
    field(line, len, "Version", &f->version);
    field(line, len, "Architecture", &f->arch);
}

static int add_paragraph(cli_input *input, const char *path, uint64_t line, const fields *f,
                         farpool_slice text)
{
    if (!f->name.len || !f->version.len)
        return fp_error(FARPOOL_E_INVAL, "%s:%llu: a package record without Package or Version",
                        path, (unsigned long long)line);
    farpool_slice key;
    int rc = package_key(input, path, line, f->name, (farpool_slice){0}, f->version, &key);
    rc = rc ? rc : add(input, path, line, key, text);
    if (!rc)
        input->records[input->count - 1].arch = f->arch;
    return rc;
}

static int parse_packages(cli_input *input, const char *path)
{
    const char *at = input->text, *end = at + input->text_len, *start = at;
    fields f = {0};
    uint64_t number = 0, first = 1;
    int rc = 0;
    while (at < end && !rc) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const char *next = stop ? stop + 1 : end;
        size_t len = (size_t)((stop ? stop : end) - at);
        number++;
        if (!len || next == end) {
            see_fields(at, len, &f); /* of the last line of the file */
            const char *limit = len ? next : at;
            if (limit > start)
                rc = add_paragraph(input, path, first, &f,
                                   (farpool_slice){start, (size_t)(limit - start)});
            f = (fields){0};
            start = next;
            first = number + 1;
        } else {
            see_fields(at, len, &f);
        }
        at = next;
    }
    if (!rc && end[-1] != '\n')
        input->cut_line = number;
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
    if (!rc && end[-1] != '\n')
        input->cut_line = number;
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

static bool equal(farpool_slice a, farpool_slice b)
{
    return a.len == b.len && (!a.len || !memcmp(a.data, b.data, a.len));
}

/* Packages of several architectures may have name and version in common: their keys tell them apart. */
static int tell_architectures(cli_input *input, const char *path)
{
    bool changed = false;
    for (size_t i = 0, next; i < input->count; i = next) {
        bool several = false;
        for (next = i + 1; next < input->count; next++) {
            if (!equal(input->records[i].key, input->records[next].key))
                break;
            several |= !equal(input->records[i].arch, input->records[next].arch);
        }
        for (size_t j = i; several && j < next; j++) {
            cli_record *r = &input->records[j];
            const char *name = r->key.data, *mark = memchr(name, '=', r->key.len);
            size_t name_len = (size_t)(mark - name);
            int rc =
                r->arch.len
                    ? package_key(input, path, r->line, (farpool_slice){name, name_len}, r->arch,
                                  (farpool_slice){mark + 1, r->key.len - name_len - 1}, &r->key)
                    : 0;
            if (rc)
                return rc;
            changed = true;
        }
    }
    if (changed)
        qsort(input->records, input->count, sizeof *input->records, compare);
    return 0;
}

/* Sorts by key; of several records with one key the last in the file stays. */
static int sort(cli_input *input, const char *path)
{
    qsort(input->records, input->count, sizeof *input->records, compare);
    int rc = tell_architectures(input, path);
    if (rc)
        return rc;
    size_t kept = 0;
    for (size_t i = 0; i < input->count; i++) {
        const cli_record *record = &input->records[i];
        if (i + 1 < input->count && equal(record->key, record[1].key)) {
            input->duplicates++;
            continue;
        }
        input->bytes += record->key.len + record->value.len;
        input->records[kept++] = *record;
    }
    input->count = kept;
    return 0;
}

int cli_input_read(const char *path, bool quiet, cli_input *input)
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
    if (!rc && input->cut_line && !quiet)
        fprintf(stderr, "  %s:%llu: the last line has no end; it is taken as it is\n", path,
                (unsigned long long)input->cut_line);
    return rc ? rc : sort(input, path);
}

void cli_input_free(cli_input *input)
{
    for (size_t i = 0; i < input->key_count; i++)
        free(input->keys[i]);
    free(input->keys);
    free(input->records);
    free(input->text);
}

/* Values that leave a leaf room for fewer than four records have pages of their own (farpool.h), of a power of two;
 * leaves are half full at worst. Above that: what evictions have in flight, the pages with which the pool is
 * emptied, and updates, which lengthen records a little. */
uint64_t cli_input_slab_bytes(const cli_input *input, uint64_t pool_bytes)
{
    uint64_t in_leaves = 0, own = 0;
    for (size_t i = 0; i < input->count; i++) {
        const cli_record *r = &input->records[i];
        in_leaves += r->key.len + RECORD_EXTRA;
        if (r->key.len + r->value.len + RECORD_EXTRA < OWN_PAGE_FROM) {
            in_leaves += r->value.len;
        } else {
            uint64_t page = FARPOOL_UNIT_BYTES;
            while (page < r->value.len + RECORD_EXTRA)
                page *= 2;
            own += page;
        }
    }
    return 3 * in_leaves + own / 8 * 9 + pool_bytes / 8 * 9 + (32u << 20);
}
