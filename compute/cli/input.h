/* SPDX-License-Identifier: Apache-2.0 */
/* Records to load: from Debian package lists, tab-separated values, or lines. */
#ifndef FP_CLI_INPUT_H
#define FP_CLI_INPUT_H

#include "farpool.h"

typedef struct cli_record {
    farpool_slice key, value;
    uint64_t line; /* where it was read, counted from 1 */
} cli_record;

typedef struct cli_input {
    cli_record *records; /* in order of their keys, each key once */
    size_t count, room;
    size_t bytes;      /* of all keys and values */
    size_t duplicates; /* records that a later one of the same key replaced */
    char *text;        /* the file, which keys and values point into */
    size_t text_len;
    char **keys; /* keys that had to be put together */
    size_t key_count, key_room;
} cli_input;

/* Reads a file ("-": standard input). What it is, is seen from its content: package records (paragraphs
 * with "Package:" and "Version:" fields; the key is NAME=VERSION), KEY<tab>VALUE, or plain lines (the key
 * is the line's number in 12 digits). Errors name file and line: E_INVAL, E_TOO_BIG, E_SYS, E_NOMEM. */
int cli_input_read(const char *path, cli_input *input) FARPOOL_MUST_CHECK;
void cli_input_free(cli_input *input);

#endif
