/* SPDX-License-Identifier: Apache-2.0 */
/* Records as JSON (docs/coordinator.md, What is kept), and what nodes tell. Reading is strict. */
#ifndef FP_COORDINATOR_RECORD_H
#define FP_COORDINATOR_RECORD_H

#include "coordinator/model.h"

/* New objects; NULL: no memory. */
json_t *fp_member_json(const fp_member_record *record);
json_t *fp_part_json(const fp_part_record *record);
/* Takes object, which may be NULL, and adds the numbers that a partition is made with. */
json_t *fp_part_add_numbers(json_t *object, const fp_part_record *record);

/* where: the key, for messages. E_CORRUPT with key and field. */
int fp_member_read(const char *where, const json_t *object,
                   fp_member_record *record) FARPOOL_MUST_CHECK;
/* What a node joins with: a record that is not kept yet. E_INVAL. */
int fp_card_read(const json_t *params, fp_member_record *record) FARPOOL_MUST_CHECK;
int fp_part_read(const char *where, const json_t *object,
                 fp_part_record *record) FARPOOL_MUST_CHECK;

/* ---- for all who read JSON here -------------------------------------------------------------- */

/* Reads fields one after the other; the first mistake stays, with the code, in words of its own. */
typedef struct fp_reader {
    const json_t *object;
    const char *where;
    int code; /* of what is wrong: E_CORRUPT, E_INVAL, E_PROTO */
    int rc;   /* 0, or code */
} fp_reader;

/* A field that may be missing has a default; NULL, or UINT64_MAX as `missing`: it must be there. */
void fp_read_text(fp_reader *reader, const char *field, char *text, size_t room,
                  const char *missing);
uint64_t fp_read_number(fp_reader *reader, const char *field, uint64_t min, uint64_t max,
                        uint64_t missing);
bool fp_read_bool(fp_reader *reader, const char *field, int missing); /* -1: must be there */
/* One of count names. */
int fp_read_word(fp_reader *reader, const char *field, const char *const *names, int count,
                 int missing);

#endif
