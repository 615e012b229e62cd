/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cli/serve_notes.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"

typedef unsigned long long ull;

/* A value begins and ends with this. */
typedef struct value_head {
    uint64_t number, epoch, key;
} value_head;

static size_t notes_bytes(uint64_t keys) { return sizeof(cli_notes) + keys * sizeof(cli_note); }

int cli_notes_open(const char *directory, uint64_t id, uint64_t keys, cli_notes **out)
{
    char path[512];
    struct stat stat;
    snprintf(path, sizeof path, "%s/partition-%llu", directory, (ull)id);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return fp_error_sys("notes of acknowledged writes: opening %s", path);
    size_t bytes = notes_bytes(keys);
    void *memory = MAP_FAILED;
    int rc = 0;
    if (fstat(fd, &stat) || (!stat.st_size && ftruncate(fd, (off_t)bytes)))
        rc = fp_error_sys("notes of acknowledged writes: %s", path);
    else if (stat.st_size && stat.st_size != (off_t)bytes)
        rc = fp_error(FARPOOL_E_INVAL,
                      "notes of acknowledged writes: %s was not made for %llu keys; remove it, or "
                      "give the --keys that it was made for",
                      path, (ull)keys);
    if (!rc) {
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED)
            rc = fp_error_sys("notes of acknowledged writes: mapping %s", path);
    }
    close(fd);
    if (rc)
        return rc;
    *out = memory;
    (*out)->keys = keys;
    return 0;
}

void cli_notes_close(cli_notes *notes)
{
    if (notes)
        munmap(notes, notes_bytes(notes->keys));
}

static void raise_to(_Atomic uint64_t *value, uint64_t to)
{
    uint64_t now = atomic_load(value);
    while (now < to && !atomic_compare_exchange_weak(value, &now, to))
        ;
}

/* Made up: neighbours are not neighbours in the tree. */
static farpool_slice key_text(const cli_record *records, uint64_t key, char text[32])
{
    if (records)
        return records[key].key;
    int len = snprintf(text, 32, "%08x-%llu", (uint32_t)(key * 2654435761u), (ull)key);
    return (farpool_slice){text, (size_t)len};
}

static size_t make_value(const value_head *head, const cli_record *records,
                         uint8_t value[CLI_NOTES_VALUE_MAX])
{
    size_t len = (head->number * 31 + head->key) % 400,
           most = CLI_NOTES_VALUE_MAX - 2 * sizeof *head;
    if (records) {
        len = records[head->key].value.len;
        len = len < most ? len : most;
        memcpy(value + sizeof *head, records[head->key].value.data, len);
    } else {
        memset(value + sizeof *head, (int)(head->number + head->key), len);
    }
    memcpy(value, head, sizeof *head);
    memcpy(value + sizeof *head + len, head, sizeof *head);
    return len + 2 * sizeof *head;
}

int cli_notes_write(cli_notes *notes, const cli_record *records, uint64_t key, uint64_t epoch,
                    farpool_partition *partition, farpool_btree *tree,
                    enum farpool_durability durability)
{
    char text[32];
    uint8_t value[CLI_NOTES_VALUE_MAX];
    cli_note *note = &notes->list[key];
    value_head head = {atomic_fetch_add(&note->tried, 1) + 1, epoch, key};
    size_t len = make_value(&head, records, value);
    int rc = farpool_btree_put(tree, key_text(records, key, text), (farpool_slice){value, len});
    if (!rc)
        rc = farpool_wait_durable(partition, UINT64_MAX, durability);
    if (rc)
        return rc;
    raise_to(&note->acknowledged, head.number);
    raise_to(&notes->last_ns, fp_now_ns());
    atomic_fetch_add(&notes->acknowledged, 1);
    return 0;
}

/* What of the key is there: number 0 if nothing. */
static int look_up(const cli_record *records, uint64_t key, farpool_btree *tree, value_head *head)
{
    char text[32];
    uint8_t there[CLI_NOTES_VALUE_MAX], wanted[CLI_NOTES_VALUE_MAX];
    size_t len = 0;
    *head = (value_head){0};
    int rc = farpool_btree_lookup(tree, key_text(records, key, text), there, sizeof there, &len);
    if (rc == FARPOOL_E_NOTFOUND)
        return 0;
    if (rc && rc != FARPOOL_E_TOO_BIG)
        return rc;
    if (!rc && len >= sizeof *head)
        memcpy(head, there, sizeof *head);
    if (rc || head->key != key || len != make_value(head, records, wanted) ||
        memcmp(there, wanted, len) != 0)
        return fp_error(FARPOOL_E_CORRUPT, "key %llu: what is there was never written", (ull)key);
    return 0;
}

static int check_key(cli_note *note, const cli_record *records, uint64_t key, uint64_t epoch,
                     farpool_btree *tree)
{
    value_head head;
    uint64_t least = atomic_load(&note->acknowledged); /* before, and the next one after */
    int rc = look_up(records, key, tree, &head);
    uint64_t most = atomic_load(&note->tried);
    if (rc)
        return rc;
    uint64_t gone = atomic_load(&note->gone), found = atomic_load(&note->found),
             since = atomic_load(&note->epoch);
    if (head.number < least || head.number > most)
        return fp_error(FARPOOL_E_CORRUPT,
                        "key %llu: write %llu (of epoch %llu) is there; up to %llu were "
                        "acknowledged and %llu begun",
                        (ull)key, (ull)head.number, (ull)head.epoch, (ull)least, (ull)most);
    if (head.number > found && (head.number <= gone || head.epoch < since))
        return fp_error(FARPOOL_E_CORRUPT,
                        "key %llu: write %llu (of epoch %llu) is there; under epoch %llu it was "
                        "%llu, and up to %llu had begun",
                        (ull)key, (ull)head.number, (ull)head.epoch, (ull)since, (ull)found,
                        (ull)gone);
    raise_to(&note->acknowledged, head.number);
    atomic_store(&note->found, head.number);
    atomic_store(&note->gone, most);
    atomic_store(&note->epoch, epoch);
    return 0;
}

int cli_notes_check(cli_notes *notes, const cli_record *records, uint64_t epoch,
                    farpool_btree *tree)
{
    int rc = 0;
    for (uint64_t key = 0; key < notes->keys && !rc; key++)
        rc = check_key(&notes->list[key], records, key, epoch, tree);
    return rc;
}
