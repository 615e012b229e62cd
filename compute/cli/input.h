/* SPDX-License-Identifier: Apache-2.0 */
/* Records to load: from Debian package lists, tab-separated values, or lines. */
#ifndef FP_CLI_INPUT_H
#define FP_CLI_INPUT_H

#include <stdbool.h>

#include "farpool.h"

typedef struct cli_record {
    farpool_slice key, value;
    farpool_slice arch; /* of a package record */
    uint64_t line;      /* where it was read, counted from 1 */
} cli_record;

typedef struct cli_input {
    cli_record *records; /* in order of their keys, each key once */
    size_t count, room;
    size_t bytes;      /* of all keys and values */
    size_t duplicates; /* records that a later one of the same key replaced */
    uint64_t cut_line; /* the last line, if the file ends within it; else 0 */
    char *text;        /* the file, which keys and values point into */
    size_t text_len;
    char **keys; /* keys that had to be put together */
    size_t key_count, key_room;
} cli_input;

/* Reads a file ("-": standard input). What it is, is seen from its content: package records (paragraphs
 * with "Package:" and "Version:" fields; the key is NAME=VERSION, or NAME:ARCH=VERSION where several
 * architectures have that), KEY<tab>VALUE, or plain lines (the key is the line's number in 12 digits). A last
 * line without an end is taken as it is, and mentioned on stderr unless quiet. Errors name file and line:
 * E_INVAL, E_TOO_BIG, E_SYS, E_NOMEM. */
int cli_input_read(const char *path, bool quiet, cli_input *input) FARPOOL_MUST_CHECK;
void cli_input_free(cli_input *input);
/* What the records need of a partition's slab, if they are worked on through a pool of that size. */
uint64_t cli_input_slab_bytes(const cli_input *input, uint64_t pool_bytes);

#endif
