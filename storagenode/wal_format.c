/* SPDX-License-Identifier: Apache-2.0 */
#include "storagenode/wal_format.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc.h"
#include "common/redo.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian");

static const uint64_t state_magic = 0x3130454154534c57;   /* "WLSTAE01" */
static const uint64_t segment_magic = 0x3130474553414c57; /* "WLASEG01" */
static const uint64_t mark_magic = 0x31304b52414d4c57;    /* "WLMARK01" */

#define CRC_OF(object) fp_crc32c(0, (object), offsetof(__typeof__(*(object)), crc))

/* ---- writing --------------------------------------------------------------------------------- */

void fp_wal_put_state(uint8_t *blocks, fp_wal_state state)
{
    state.magic = state_magic;
    state.version = FP_WAL_VERSION;
    state.zero = 0;
    state.crc = CRC_OF(&state);
    memset(blocks, 0, FP_WAL_STATE_BYTES);
    for (int i = 0; i < FP_WAL_STATE_COPIES; i++)
        memcpy(blocks + i * FP_WAL_BLOCK, &state, sizeof state);
}

void fp_wal_put_header(uint8_t *block, fp_wal_header header, fp_wal_mark mark)
{
    header.magic = segment_magic;
    header.version = FP_WAL_VERSION;
    header.zero = 0;
    header.crc = CRC_OF(&header);
    mark.magic = mark_magic;
    mark.number = header.number;
    mark.partition = header.partition;
    mark.zero = 0;
    mark.crc = CRC_OF(&mark);
    memset(block, 0, FP_WAL_BLOCK);
    memcpy(block, &header, sizeof header);
    memcpy(block + FP_WAL_MARK_AT, &mark, sizeof mark);
}

/* ---- reading --------------------------------------------------------------------------------- */

static bool segment_bytes_are_valid(uint64_t bytes)
{
    return bytes && bytes % FP_WAL_BLOCK == 0 && bytes <= INT64_MAX / 2;
}

bool fp_wal_get_state(const uint8_t *blocks, uint64_t partition, fp_wal_state *state)
{
    for (int i = 0; i < FP_WAL_STATE_COPIES; i++) {
        memcpy(state, blocks + i * FP_WAL_BLOCK, sizeof *state);
        if (state->magic == state_magic && state->version == FP_WAL_VERSION &&
            state->crc == CRC_OF(state) && state->partition == partition &&
            segment_bytes_are_valid(state->segment_bytes) && state->start >= FP_REDO_LSN_FIRST &&
            state->start % FP_REDO_ALIGN == 0 && fp_lineage_is_valid(&state->lineage))
            return true;
    }
    *state = (fp_wal_state){0};
    return false;
}

uint32_t fp_wal_other_version(const uint8_t *blocks)
{
    uint32_t other = 0;
    for (int i = 0; i < FP_WAL_STATE_COPIES; i++) {
        fp_wal_state state; /* where another version has its checksum is not known */
        memcpy(&state, blocks + i * FP_WAL_BLOCK, sizeof state);
        if (state.magic != state_magic)
            continue;
        if (state.version == FP_WAL_VERSION)
            return 0; /* so it is this one, damaged */
        other = state.version;
    }
    return other;
}

bool fp_wal_get_header(const uint8_t *block, const fp_wal_state *state, uint32_t number,
                       fp_wal_header *header)
{
    memcpy(header, block, sizeof *header);
    return header->magic == segment_magic && header->version == FP_WAL_VERSION &&
           header->crc == CRC_OF(header) && header->partition == state->partition &&
           header->number == number && header->segment_bytes == state->segment_bytes;
}

uint64_t fp_wal_get_mark(const uint8_t *block, const fp_wal_state *state, uint32_t number)
{
    fp_wal_mark mark;
    memcpy(&mark, block + FP_WAL_MARK_AT, sizeof mark);
    return mark.magic == mark_magic && mark.crc == CRC_OF(&mark) && mark.era == state->era &&
                   mark.partition == state->partition && mark.number == number
               ? mark.durable
               : 0;
}

/* ---- names ----------------------------------------------------------------------------------- */

void fp_wal_state_name(uint64_t partition, char name[FP_WAL_NAME_MAX])
{
    snprintf(name, FP_WAL_NAME_MAX, "wal-%016llx-state", (unsigned long long)partition);
}

void fp_wal_segment_name(uint64_t partition, uint32_t number, char name[FP_WAL_NAME_MAX])
{
    snprintf(name, FP_WAL_NAME_MAX, "wal-%016llx-%08x", (unsigned long long)partition, number);
}

enum fp_wal_name_kind fp_wal_parse_name(const char *name, uint64_t partition, uint32_t *number)
{
    char expected[FP_WAL_NAME_MAX];
    fp_wal_state_name(partition, expected);
    if (!strcmp(name, expected))
        return FP_WAL_NAME_STATE;
    size_t prefix = strlen(expected) - strlen("state");
    if (strncmp(name, expected, prefix) != 0)
        return FP_WAL_NAME_OTHER;
    size_t len = strlen(name);
    if (len > 4 && !strcmp(name + len - 4, ".tmp"))
        return FP_WAL_NAME_TMP;
    *number = (uint32_t)strtoul(name + prefix, NULL, 16);
    fp_wal_segment_name(partition, *number, expected);
    return strcmp(name, expected) ? FP_WAL_NAME_OTHER : FP_WAL_NAME_SEGMENT;
}
