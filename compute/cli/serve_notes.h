/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What was written to a partition's B+-tree and acknowledged: in a file mapped into memory, which every process that owns the
 * partition in its turn uses, and which kill -9 leaves as it is. One who was taken over, but does not know it yet, may
 * still note something; so numbers of writes only rise, and none is given twice.
 */
#ifndef FP_CLI_SERVE_NOTES_H
#define FP_CLI_SERVE_NOTES_H

#include <stdatomic.h>

#include "compute/cli/input.h"

enum { CLI_NOTES_VALUE_MAX = 16384 }; /* longer records are cut */

/* Of a key. Its value in the tree is number n, of some write, so that acknowledged <= n <= tried. */
typedef struct cli_note {
    _Atomic uint64_t tried, acknowledged;
    /* When an owner compared it last, n was there, and writes up to `gone` had been tried: those behind n are lost, and
     * must never come back; later ones are of this epoch or higher. */
    _Atomic uint64_t found, gone, epoch;
} cli_note;

typedef struct cli_notes {
    uint64_t keys;
    _Atomic uint64_t root;         /* of the tree; 0: there is none */
    _Atomic uint64_t acknowledged; /* writes */
    _Atomic uint64_t last_ns; /* the last one of them; the machine's clock since it was started */
    cli_note list[];
} cli_notes;

/* directory/partition-ID; made if it is not there. E_SYS; E_INVAL: it was made for another number of keys. */
int cli_notes_open(const char *directory, uint64_t id, uint64_t keys,
                   cli_notes **notes) FARPOOL_MUST_CHECK;
void cli_notes_close(cli_notes *notes);

/* Writes the key once more; durable says how far it is waited for. With an error it is not known what became of it. The key
 * is the name, and its value the text, of a record; without records keys and values are made up. */
int cli_notes_write(cli_notes *notes, const cli_record *records, uint64_t key, uint64_t epoch,
                    farpool_partition *partition, farpool_btree *tree,
                    enum farpool_durability durability) FARPOOL_MUST_CHECK;

/* Compares all keys with what is there. Nobody else writes in this process. E_CORRUPT: one is not as it was acknowledged, or
 * what was lost has come back; others: it could not be read. */
int cli_notes_check(cli_notes *notes, const cli_record *records, uint64_t epoch,
                    farpool_btree *tree) FARPOOL_MUST_CHECK;

#endif
