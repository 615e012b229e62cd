/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control messages between compute, memory and storage nodes: one SEND each, little-endian, described in
 * docs/protocol.md. Encoding and decoding are here and nowhere else. Decoders trust nothing: a bad
 * magic, version, type, length, count or text is E_PROTO with a sentence, never undefined behaviour.
 */
#ifndef FP_COMMON_WIRE_H
#define FP_COMMON_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "common/auth.h"
#include "common/lineage.h"
#include "common/rkey.h"
#include "farpool.h"

enum {
    FP_WIRE_VERSION = 9,
    FP_WIRE_EXTENTS_MAX = 500, /* in one FP_MSG_EXTENTS; ask again with first > 0 for more */
    FP_WIRE_TEXT_MAX = 255,
    FP_WIRE_DATA_MAX = 12288, /* bytes of a page, of the log or of a file in one message */
    FP_WIRE_HASH_BYTES = 16,
};

/* What a partition wants memory for. Each use is a grant of its own; the epoch is the partition's. */
enum fp_use { FP_USE_SLAB, FP_USE_RING, FP_USES };

enum fp_msg_type {
    FP_MSG_HELLO =
        1, /* first on every connection, from the client: name, nonce (zero if it has no key) */
    FP_MSG_HELLO_OK, /* boot_id, name of the node */
    FP_MSG_GRANT, /* partition, epoch, use, bytes, held: give the partition memory under this epoch. Known
                         under a lower epoch: all connections that use the partition are cut off, and
                         what it has passes on. Under a higher one, or granted under this one: E_FENCED.
                         held, if not 0: only what is held under that epoch passes on; another one: E_FENCED,
                         nothing of that use: E_NOTFOUND */
    FP_MSG_ATTACH, /* partition, epoch, use, first: another connection of the current owner, or the next
                         part of a long list of extents. Another epoch: E_FENCED */
    FP_MSG_EXTENTS, /* answers GRANT and ATTACH: partition, epoch, use, total, first, extent_bytes,
                         extents; these were shared (fp_net_share) with this connection before */
    FP_MSG_RELEASE, /* partition, epoch, use: give the memory back */
    FP_MSG_RELEASE_OK,
    FP_MSG_USAGE, /* no body */
    FP_MSG_USAGE_OK,
    FP_MSG_ERROR, /* answers any request: code, text */
    /* To storage nodes. An LSN named is a frame's beginning or end unless it says otherwise. */
    FP_MSG_WAL_OPEN, /* partition, epoch, bytes, lsn, lineage: here is the redo log of this partition, as its owner of this
                         epoch writes it, from lsn on; no frame of it is longer than bytes. Makes the WAL if there is
                         none, and promises that nothing of a lower epoch is appended any more. E_FENCED: a higher one
                         was promised, or the WAL is of another log: WAL_JOIN. The first who opens it, while his connection lives, is the one who appends; bytes 0: this one
                         does not, or not any more */
    FP_MSG_WAL_GET,  /* partition: what is there? E_NOTFOUND */
    FP_MSG_WAL_APPEND, /* partition, epoch, lsn: the bytes up to lsn have been WRITTEN to the landing ring. Answered when
                         they are on stable media */
    FP_MSG_WAL_STATE, /* answers them: partition, epoch (promised), lineage, state */
    FP_MSG_PAGE_GET, /* partition, epoch (0: of no owner), pid, lsn, offset, fork: a page as it is after all frames that end at or below lsn (0:
                         all that are durable here). E_NOTFOUND: it is no page then; E_RETRY: lsn is not durable yet,
                         or what is there is not of the log whose last fork that is; E_FENCED: a later owner may have
                         changed it; E_CORRUPT */
    FP_MSG_PAGE, /* partition, pid, lsn (0 replaced), order, offset, data: of the page, from offset on */
    FP_MSG_LOG_GET, /* partition, lsn (any), fork: the log's bytes from there on. E_NOTFOUND: that was trimmed; E_RETRY: what
                        is there is not of the log whose last fork that is */
    FP_MSG_LOG,     /* partition, lsn, data: empty at the end of what is durable */
    FP_MSG_WAL_FENCE, /* partition, epoch, lsn: nothing of a lower epoch is appended any more at lsn or behind it;
                         answered by WAL_STATE */
    FP_MSG_WAL_JOIN, /* partition, epoch, lineage: that is the partition's log. A WAL that is the beginning of it goes on
                         as that, which is answered by WAL_STATE. E_CORRUPT: it is not, and counts for nothing until it
                         has begun anew. E_FENCED: it knows a later fork */
    /* From a storage node to another one that may have the same partition. */
    FP_MSG_MANIFEST_GET, /* partition, lsn, at, fork: what pages the node has, as the file that says so, from byte `at` on. With
                         at 0 the log is turned into layers up to lsn first, and what the manifest names is kept for
                         this connection until it asks so again or ends. E_RETRY: lsn is not durable there, or the fork
                         is another one; E_NOTFOUND,
                         E_CORRUPT: the node does not have all pages itself */
    FP_MSG_MANIFEST,     /* partition, bytes (of all of it), at, data */
    FP_MSG_FILE_GET, /* partition, hash, at: of a file that the manifest given to this connection names. E_NOTFOUND */
    FP_MSG_FILE, /* partition, hash, at, data: at least one byte */
    /* The rest of the handshake with a node that has a secret (common/greet.h). */
    FP_MSG_CHALLENGE = 25, /* answers HELLO: boot_id, name of the node, its nonce, its proof */
    FP_MSG_PROOF, /* the client's: proof; answered by HELLO_OK. Of another connection, or by another key: E_REFUSED */
    /* To coordinators, and between them and whoever asks: docs/coordinator.md, What is said. */
    FP_MSG_CALL, /* bytes (of all of it), at, data: part of a JSON object, in order, under one request number */
    FP_MSG_ANSWER, /* the same */
    FP_MSG_LAST = FP_MSG_ANSWER,
};

typedef struct fp_msg {
    enum fp_msg_type type;
    uint32_t request; /* chosen by the client, repeated in the answer */
    uint64_t partition, epoch;
    enum fp_use use;
    uint64_t bytes;
    uint64_t held;    /* GRANT: by the sender, who goes on under a higher epoch; 0: by anybody */
    uint64_t boot_id; /* random, new at each start of a memory node */
    uint32_t total, first, count;
    uint64_t extent_bytes; /* FP_EXTENT_UNIT_BYTES << n */
    uint64_t lsn, pid;
    uint64_t fork; /* number of a log's last fork, 0: there is none */
    fp_lineage lineage;
    uint32_t order, offset;
    uint64_t at; /* byte of a file */
    uint8_t hash[FP_WIRE_HASH_BYTES];
    uint8_t nonce[FP_AUTH_BYTES], proof[FP_AUTH_BYTES];
    struct {                          /* WAL_STATE */
        uint64_t volume;              /* number of the volume, never 0 */
        uint64_t start, end, durable; /* LSNs as of fp_wal_start and so on (storagenode/wal.h) */
        uint32_t streaming;           /* 1: this connection is the one who appends */
        fp_rkey landing;              /* then: byte l of the log is WRITTEN at l modulo its len; */
        uint64_t landing_free;        /* up to this LSN now */
    } wal;
    uint32_t data_len;
    union {
        fp_rkey extents[FP_WIRE_EXTENTS_MAX];
        uint8_t data[FP_WIRE_DATA_MAX];
    };
    struct { /* USAGE_OK */
        uint64_t bytes_total, bytes_granted;
        uint64_t partitions, connections;
        uint64_t cpu_ns; /* CPU time of the node's process so far */
        uint64_t
            data_bytes; /* page bytes that the node's CPU moved (tcp emulation); 0 on verbs, shm */
        uint64_t
            spill_lag; /* bytes of log in rings here, durable in memory, not known to be on stable media; of a
                          storage node: durable here, not in layers yet */
        uint64_t
            incomplete; /* of a storage node: partitions of which it should get more from its peers */
    } usage;
    int32_t code;
    char text[FP_WIRE_TEXT_MAX + 1]; /* name of HELLO, HELLO_OK and CHALLENGE, sentence of ERROR */
} fp_msg;

/* Returns the length written; capacity must be FP_NET_MESSAGE_MAX. */
size_t fp_wire_encode(const fp_msg *msg, void *buffer, size_t capacity);
int fp_wire_decode(const void *buffer, size_t len, fp_msg *msg) FARPOOL_MUST_CHECK;

/* ---- slots ----------------------------------------------------------------------------------- */
/*
 * A slab is a list of extents, an extent is 2^n slot units of FP_SLOT_UNIT_BYTES and behind them its
 * directory, an entry of FP_SLOT_ENTRY_BYTES for each unit. A page of 2^k units rests in 2^k consecutive
 * slot units, its header first, the page right behind it; the directory's entry of the first of them says
 * so again. Slot number = extent * (slot units per extent) + unit.
 */
enum {
    FP_SLOT_HEADER_BYTES = 64,
    FP_SLOT_UNIT_BYTES = 4096 + FP_SLOT_HEADER_BYTES,
    FP_SLOT_ENTRY_BYTES = 32,
    FP_EXTENT_UNIT_BYTES =
        FP_SLOT_UNIT_BYTES + FP_SLOT_ENTRY_BYTES, /* an extent's, for each unit */
};

#define FP_SLOT_MAGIC 0x746f6c5370466631ull /* "1ffpSlot" */

/* On the wire and in the slab: little-endian, no padding. crc covers the page, then the header's bytes
 * before crc. */
typedef struct fp_slot_header {
    uint64_t magic;
    uint64_t partition;
    uint64_t pid;
    uint64_t epoch;
    uint64_t lsn;
    uint32_t order;
    uint32_t crc;
    uint8_t zero[16];
} fp_slot_header;

_Static_assert(sizeof(fp_slot_header) == FP_SLOT_HEADER_BYTES, "slot header");

/* What a directory says of a slot: written before the slot is, so that no page is there of which the
 * directory does not know. The slot may have an older version of the page, or a torn one. Little-endian. */
typedef struct fp_slot_entry {
    uint64_t page; /* pid | order << 48 */
    uint64_t epoch;
    uint64_t lsn;
    uint32_t page_crc;
    uint32_t crc; /* of the bytes before, and never 0 */
} fp_slot_entry;

uint32_t fp_slot_entry_crc(const fp_slot_entry *entry);

_Static_assert(sizeof(fp_slot_entry) == FP_SLOT_ENTRY_BYTES, "slot entry");

#endif
