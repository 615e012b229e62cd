/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A message is a header of 16 bytes (magic, version, type, length of the body, request number) and a body
 * whose fields each type names in `bodies` below. Encoding and decoding walk the same table, so they
 * can't disagree.
 */
#include "common/wire.h"

#include <endian.h>
#include <stdbool.h>
#include <string.h>

#include "common/crc.h"
#include "common/error.h"

enum { MAGIC = 0x31775046 /* "FPw1" */, HEADER_BYTES = 16 };

/* One letter per field, in order:
 *   P partition  E epoch  V use  B bytes  H held  I boot_id  F first  T text  C code  U usage
 *   Y fork  Z lineage
 *   R nonce  M proof
 *   L lsn  G pid  O order  A offset  D data  W wal  N at  K hash
 *   X total, first, count, extent_bytes, then count times key, addr, len */
static const char *const bodies[] = {
    [FP_MSG_HELLO] = "TR",        [FP_MSG_HELLO_OK] = "IT",
    [FP_MSG_GRANT] = "PEVBH",     [FP_MSG_ATTACH] = "PEVF",
    [FP_MSG_EXTENTS] = "PEVX",    [FP_MSG_RELEASE] = "PEV",
    [FP_MSG_RELEASE_OK] = "",     [FP_MSG_USAGE] = "",
    [FP_MSG_USAGE_OK] = "U",      [FP_MSG_ERROR] = "CT",
    [FP_MSG_WAL_OPEN] = "PEBLZ",  [FP_MSG_WAL_GET] = "P",
    [FP_MSG_WAL_APPEND] = "PEL",  [FP_MSG_WAL_STATE] = "PEZW",
    [FP_MSG_PAGE_GET] = "PEGLAY", [FP_MSG_PAGE] = "PGLOAD",
    [FP_MSG_LOG_GET] = "PLY",     [FP_MSG_LOG] = "PLD",
    [FP_MSG_WAL_FENCE] = "PEL",   [FP_MSG_MANIFEST_GET] = "PLNY",
    [FP_MSG_MANIFEST] = "PBND",   [FP_MSG_FILE_GET] = "PKN",
    [FP_MSG_FILE] = "PKND",       [FP_MSG_WAL_JOIN] = "PEZ",
    [FP_MSG_CHALLENGE] = "ITRM",  [FP_MSG_PROOF] = "M",
    [FP_MSG_CALL] = "BND",        [FP_MSG_ANSWER] = "BND",
};

typedef struct cursor {
    uint8_t *at, *end;
    bool decode;
    bool bad; /* decode: too short; encode: no room */
} cursor;

static void bytes(cursor *c, void *data, size_t len)
{
    if ((size_t)(c->end - c->at) < len) {
        c->bad = true;
        c->at = c->end;
        return;
    }
    if (c->decode)
        memcpy(data, c->at, len);
    else
        memcpy(c->at, data, len);
    c->at += len;
}

static void u32(cursor *c, uint32_t *value)
{
    uint32_t wire = htole32(*value);
    bytes(c, &wire, sizeof wire);
    if (c->decode && !c->bad)
        *value = le32toh(wire);
}

static void u64(cursor *c, uint64_t *value)
{
    uint64_t wire = htole64(*value);
    bytes(c, &wire, sizeof wire);
    if (c->decode && !c->bad)
        *value = le64toh(wire);
}

static void text(cursor *c, char *string)
{
    uint32_t len = c->decode ? 0 : (uint32_t)strnlen(string, FP_WIRE_TEXT_MAX);
    u32(c, &len);
    if (len > FP_WIRE_TEXT_MAX)
        c->bad = true;
    if (c->bad)
        return;
    bytes(c, string, len);
    if (!c->decode || c->bad)
        return;
    string[len] = 0;
    if (memchr(string, 0, len))
        c->bad = true;
}

static void use(cursor *c, fp_msg *msg)
{
    uint32_t value = (uint32_t)msg->use;
    u32(c, &value);
    if (value >= FP_USES)
        c->bad = true;
    else
        msg->use = (enum fp_use)value;
}

static void rkey(cursor *c, fp_rkey *key)
{
    u64(c, &key->key);
    u64(c, &key->addr);
    u64(c, &key->len);
}

static void extents(cursor *c, fp_msg *msg)
{
    u32(c, &msg->total);
    u32(c, &msg->first);
    u32(c, &msg->count);
    u64(c, &msg->extent_bytes);
    if (msg->count > FP_WIRE_EXTENTS_MAX || msg->first > msg->total ||
        msg->count > msg->total - msg->first)
        c->bad = true;
    for (uint32_t i = 0; i < msg->count && !c->bad; i++)
        rkey(c, &msg->extents[i]);
}

static void lineage(cursor *c, fp_lineage *of)
{
    u32(c, &of->count);
    u64(c, &of->before);
    if (of->count > FP_FORKS_MAX)
        c->bad = true;
    for (uint32_t i = 0; i < of->count && !c->bad; i++) {
        u64(c, &of->forks[i].number);
        u64(c, &of->forks[i].at);
    }
    if (c->decode && !c->bad && !fp_lineage_is_valid(of))
        c->bad = true;
}

static void wal(cursor *c, fp_msg *msg)
{
    u64(c, &msg->wal.volume);
    u64(c, &msg->wal.start);
    u64(c, &msg->wal.end);
    u64(c, &msg->wal.durable);
    u32(c, &msg->wal.streaming);
    rkey(c, &msg->wal.landing);
    u64(c, &msg->wal.landing_free);
}

static void data(cursor *c, fp_msg *msg)
{
    u32(c, &msg->data_len);
    if (msg->data_len > FP_WIRE_DATA_MAX)
        c->bad = true;
    if (!c->bad)
        bytes(c, msg->data, msg->data_len);
}

static void usage(cursor *c, fp_msg *msg)
{
    u64(c, &msg->usage.bytes_total);
    u64(c, &msg->usage.bytes_granted);
    u64(c, &msg->usage.partitions);
    u64(c, &msg->usage.connections);
    u64(c, &msg->usage.cpu_ns);
    u64(c, &msg->usage.data_bytes);
    u64(c, &msg->usage.spill_lag);
    u64(c, &msg->usage.incomplete);
}

static void body(cursor *c, fp_msg *msg)
{
    for (const char *field = bodies[msg->type]; *field && !c->bad; field++) {
        switch (*field) {
        case 'P':
            u64(c, &msg->partition);
            break;
        case 'E':
            u64(c, &msg->epoch);
            break;
        case 'V':
            use(c, msg);
            break;
        case 'B':
            u64(c, &msg->bytes);
            break;
        case 'H':
            u64(c, &msg->held);
            break;
        case 'I':
            u64(c, &msg->boot_id);
            break;
        case 'F':
            u32(c, &msg->first);
            break;
        case 'T':
            text(c, msg->text);
            break;
        case 'C': {
            uint32_t code = (uint32_t)msg->code;
            u32(c, &code);
            msg->code = (int32_t)code;
            break;
        }
        case 'U':
            usage(c, msg);
            break;
        case 'X':
            extents(c, msg);
            break;
        case 'L':
            u64(c, &msg->lsn);
            break;
        case 'R':
            bytes(c, msg->nonce, sizeof msg->nonce);
            break;
        case 'M':
            bytes(c, msg->proof, sizeof msg->proof);
            break;
        case 'Y':
            u64(c, &msg->fork);
            break;
        case 'Z':
            lineage(c, &msg->lineage);
            break;
        case 'G':
            u64(c, &msg->pid);
            break;
        case 'O':
            u32(c, &msg->order);
            break;
        case 'A':
            u32(c, &msg->offset);
            break;
        case 'D':
            data(c, msg);
            break;
        case 'W':
            wal(c, msg);
            break;
        case 'N':
            u64(c, &msg->at);
            break;
        case 'K':
            bytes(c, msg->hash, sizeof msg->hash);
            break;
        }
    }
}

size_t fp_wire_encode(const fp_msg *msg, void *buffer, size_t capacity)
{
    FP_ASSERT(msg->type >= FP_MSG_HELLO && msg->type <= FP_MSG_LAST);
    FP_ASSERT(capacity >= HEADER_BYTES);
    uint8_t *start = buffer;
    cursor c = {.at = start + HEADER_BYTES, .end = start + capacity};
    body(&c, (fp_msg *)(uintptr_t)msg); /* the walk that decodes, too; encoding only reads */
    FP_ASSERT(!c.bad);
    uint32_t words[4] = {
        MAGIC,
        FP_WIRE_VERSION | (uint32_t)msg->type << 16,
        (uint32_t)(c.at - start) - HEADER_BYTES,
        msg->request,
    };
    cursor header = {.at = start, .end = start + HEADER_BYTES};
    for (int i = 0; i < 4; i++)
        u32(&header, &words[i]);
    return (size_t)(c.at - start);
}

int fp_wire_decode(const void *buffer, size_t len, fp_msg *msg)
{
    uint32_t words[4] = {0};
    cursor c = {.at = (uint8_t *)(uintptr_t)buffer, .decode = true};
    c.end = c.at + len;
    memset(msg, 0, offsetof(fp_msg, extents));
    memset(&msg->usage, 0, sizeof *msg - offsetof(fp_msg, usage));
    for (int i = 0; i < 4; i++)
        u32(&c, &words[i]);
    unsigned version = words[1] & 0xFFFF, type = words[1] >> 16;
    if (c.bad || words[0] != MAGIC)
        return fp_error(FARPOOL_E_PROTO,
                        "a message of %zu bytes that is none of farpool's: is the peer one?", len);
    if (version != FP_WIRE_VERSION)
        return fp_error(FARPOOL_E_PROTO,
                        "a message of protocol version %u; this side speaks %d: upgrade the older",
                        version, FP_WIRE_VERSION);
    if (type < FP_MSG_HELLO || type > FP_MSG_LAST)
        return fp_error(FARPOOL_E_PROTO, "a message of unknown type %u (1 to %d are known)", type,
                        FP_MSG_LAST);
    if (words[2] != (size_t)(c.end - c.at))
        return fp_error(FARPOOL_E_PROTO, "a message of type %u with %zu bytes of body says %u",
                        type, (size_t)(c.end - c.at), words[2]);
    msg->type = (enum fp_msg_type)type;
    msg->request = words[3];
    body(&c, msg);
    if (c.bad || c.at != c.end)
        return fp_error(FARPOOL_E_PROTO,
                        "a message of type %u with a body that does not fit it: "
                        "%u bytes",
                        type, words[2]);
    return 0;
}

uint32_t fp_slot_entry_crc(const fp_slot_entry *entry)
{
    uint32_t crc = fp_crc32c(0, entry, offsetof(fp_slot_entry, crc));
    return crc ? crc : 1;
}
