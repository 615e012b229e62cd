/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings of the daemons. One table of options per program serves its configuration file, its
 * command line and its --help, so that the three can not disagree.
 *
 * A file has one `key = value` a line; what follows a '#' at the start of a line or after white
 * space is a comment. A key may be given again: what that means is up to the option (listen: one
 * more).
 */
#ifndef FP_COMMON_CONFIG_H
#define FP_COMMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "farpool.h"

typedef struct fp_option {
    const char *name;  /* key in a file, --name on the command line */
    const char *value; /* what stands for the value in --help: "SIZE" */
    const char *help;  /* lines separated by \n */
    /* Returns 0, or E_INVAL with a sentence about the value (which names neither file nor
     * option). */
    int (*set)(void *target, const char *value);
    bool command_line_only;
} fp_option;

enum {
    FP_CONFIG_LINE_MAX = 1000,        /* bytes of a line */
    FP_CONFIG_FILE_MAX = 1024 * 1024, /* bytes of a file */
    FP_CONFIG_OPTIONS_MAX = 32,
};

/* Applies a file (or a text, origin is its name in messages) to target. The first error ends it:
 * E_INVAL with "FILE:LINE: what is wrong"; E_SYS if the file can not be read. */
int fp_config_file(const char *path, const fp_option *options, size_t count,
                   void *target) FARPOOL_MUST_CHECK;
int fp_config_text(const char *origin, const char *text, size_t len, const fp_option *options,
                   size_t count, void *target) FARPOOL_MUST_CHECK;

/* Applies the command line to target. If config_option (the name of an option without effect of
 * its own, or NULL) occurs, the file it names is applied before all others, so that flags win
 * over the file; before_flags (may be NULL) is called between the two. *help and *version tell
 * of --help and --version, which are understood by all and end the parsing. Errors as above. */
int fp_config_args(int argc, char **argv, const fp_option *options, size_t count,
                   const char *config_option, void (*before_flags)(void *target), void *target,
                   bool *help, bool *version) FARPOOL_MUST_CHECK;

/* The options' part of --help. */
void fp_config_help(FILE *out, const fp_option *options, size_t count);

/* "64m", "1.5g", "4096": bytes, with k, m, g, t (powers of 1024). E_INVAL. */
int fp_config_size(const char *text, uint64_t *bytes) FARPOOL_MUST_CHECK;
/* A decimal number from min to max. E_INVAL. */
int fp_config_number(const char *text, uint64_t min, uint64_t max,
                     uint64_t *number) FARPOOL_MUST_CHECK;
/* "1.5 GiB" into buffer, which is returned. */
const char *fp_config_size_text(uint64_t bytes, char *buffer, size_t size);

#endif
