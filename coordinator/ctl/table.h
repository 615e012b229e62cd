/* SPDX-License-Identifier: Apache-2.0 */
/* Tables for people: cells are added one by one, row after row, and printed when all are there. */
#ifndef FP_COORDINATOR_CTL_TABLE_H
#define FP_COORDINATOR_CTL_TABLE_H

#include <jansson.h>
#include <stdio.h>

typedef struct fp_table fp_table;

/* columns: heads, as "NAME,ROLE,>SIZE"; those with '>' are aligned to the right. NULL: no memory, and then all
 * functions here do nothing. */
fp_table *fp_table_new(const char *columns);
/* What would harm a terminal is printed as '?'; an empty text as '-'. */
void fp_table_cell(fp_table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
void fp_table_size(fp_table *table, const json_t *bytes); /* for people; no number: '-' */
/* Prints and frees. */
void fp_table_end(fp_table *table, FILE *out);

/* A text that came from elsewhere, for a terminal: control characters become '?'. */
void fp_print_text(FILE *out, const char *text);

#endif
