/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Inside of the spiller: spill.c (rings, steps, the thread), spill_conn.c (the connection, what is asked and answered)
 * and spill_ring.c (lines, frames, copies).
 *
 *   guarded by `lock`            rings and all that is in them, also the writing of a node's line; `turn`, `orphaned`,
 *                                `target`; storage and greeted, which the thread that steps alone writes
 *   of the thread that steps     net, poller, conn, requests, chunks, messages, times
 *   atomic, relaxed              lag, gaps: figures, nothing depends on their order
 *   atomic                       stop: set with release before the wake, read with acquire
 *
 * The lock is taken by nobody who has another lock, and whoever has it takes none. It is not held while connecting
 * or waiting, so an answer may come for a ring that has been removed: requests name rings by number.
 *
 * A ring's memory is written by peers and read by them at any time. All of it is read by fp_racy_copy into memory of
 * ours and checked there; the order of two reads is fp_racy_read_order's.
 */
#ifndef FP_MEMNODE_SPILL_INSIDE_H
#define FP_MEMNODE_SPILL_INSIDE_H

#include <pthread.h>

#include "common/greet.h"
#include "common/ring.h"
#include "common/wire.h"
#include "memnode/spill.h"

enum {
    FP_SPILL_CHUNKS = 4,            /* being sent at a time */
    FP_SPILL_CHUNK_BYTES = 8 << 20, /* a storage node that is behind syncs seldom then */
    FP_SPILL_REQUESTS = 6,          /* not answered, below FP_NET_RECV_DEPTH */
};

enum fp_spill_phase {
    FP_SPILL_LOST,      /* nothing is known of the WAL: WAL_GET is next */
    FP_SPILL_KNOWN,     /* its promise is: WAL_OPEN is next */
    FP_SPILL_STREAMING, /* we are the one who appends */
    FP_SPILL_LEAVING,   /* WAL_OPEN of 0 bytes is on the way: we are that no more */
    FP_SPILL_FOLLOWING, /* another node appends the same log: WAL_OPEN now and then says how far it is */
};

typedef struct fp_spill_ring {
    struct fp_spill_ring *next;
    uint64_t number; /* never used again */
    uint64_t partition;
    uint8_t **extents;
    uint32_t extent_count;
    uint64_t extent_bytes;

    fp_ring_owner owner; /* the last valid line read; magic 0: none */
    fp_lineage lineage;  /* of its log, as the ring's slabs say */
    fp_ring_node node;   /* our line as it stands in the ring; magic 0: none */

    enum fp_spill_phase phase;
    unsigned asked;  /* requests not answered */
    bool absent;     /* there is no WAL yet; it is made to begin where our log does */
    bool failed;     /* an append was refused: ask anew when all are answered */
    bool astray;     /* KNOWN: the WAL is of another log as far as is known: WAL_JOIN is next */
    uint64_t volume; /* whose it is */
    bool
        barred; /* because something was promised to an owner who has not begun: promise it to ours */
    uint64_t due_ns;     /* nothing is asked before */
    uint64_t backoff_ns; /* the last one; 0: all is well */
    uint64_t opened; /* epoch of our WAL_OPEN, and the highest that a frame we append may have */
    uint64_t sent;   /* STREAMING: appended up to here, perhaps not answered */
    uint64_t sent_epoch; /* of the last frame before it that we sent; 0: none */
    uint64_t sent_ns;    /* when something was, or that became possible, last */
    fp_rkey landing;
    uint64_t landing_free;

    int said;            /* the failure that the log has been told; 0: none */
    bool gap;            /* the WAL ends before our log begins */
    uint64_t gap_lsn;    /* where it ended when that seemed so; 0: it did not */
    uint64_t moved_ns;   /* when spilled rose, or there was nothing to spill, last */
    uint64_t flowing_ns; /* when the owner's durable rose last */
} fp_spill_ring;

/* A request that waits for its answer. */
typedef struct fp_spill_request {
    uint32_t number; /* 0: free */
    enum fp_msg_type type;
    uint64_t ring; /* its number */
} fp_spill_request;

/* Memory from which a copy of a ring's bytes is sent. */
typedef struct fp_spill_chunk {
    fp_mem mem; /* addr NULL: none yet */
    fp_mr *mr;
    bool busy; /* until its transfer has completed */
} fp_spill_chunk;

struct fp_spill {
    char storage[FP_NET_URI_MAX]; /* "": none */
    char target[FP_NET_URI_MAX];  /* what it is to be; rings are told of it in the next step */
    char name[FP_WIRE_TEXT_MAX + 1];
    fp_net_options net_options;
    uint64_t timeout_ns;
    pthread_mutex_t lock;
    fp_spill_ring *rings;
    uint64_t ring_numbers;
    uint64_t turn; /* number of the ring that had the last copy */
    bool
        orphaned; /* a ring was removed: the connection may still be the one who appends to its log */

    fp_net *net; /* NULL: not opened, as is */
    fp_poller *poller;
    fp_conn *conn; /* NULL: none */
    fp_greet greet;
    bool greeted;       /* the handshake is done */
    bool outage;        /* that there is no connection has been said */
    uint64_t warned_ns; /* that it stands still was said last */
    uint64_t connect_ns, connect_backoff_ns;
    fp_spill_request requests[FP_SPILL_REQUESTS];
    uint32_t request_count, request_number;
    uint64_t answered_ns; /* the last time that nothing was owed, or something came or was done */
    fp_spill_chunk chunks[FP_SPILL_CHUNKS];
    fp_msg msg;
    uint8_t buffer[FP_NET_MESSAGE_MAX];

    _Atomic uint64_t lag, gaps;
    pthread_t thread;
    int wake_fd; /* eventfd: a ring was added, or the thread is to end */
    _Atomic bool stop;
};

/* spill_conn.c: all with the lock, but connect and poll */

uint64_t fp_spill_now(const fp_spill *spill);
/* Opens the transport that leads to the storage node, unless it is open. */
int fp_spill_net_open(fp_spill *spill) FARPOOL_MUST_CHECK;
void fp_spill_net_close(fp_spill *spill); /* there is no connection */
/* Takes the target for the storage node, if it is another one. Takes and gives the lock itself. */
void fp_spill_retarget(fp_spill *spill, uint64_t now);
/* Connects if that is due. Takes and gives the lock itself. */
void fp_spill_connect(fp_spill *spill, uint64_t now);
/* Takes what has come. Takes and gives the lock itself. */
void fp_spill_poll(fp_spill *spill, uint64_t now);
/* Gives the connection up: nothing is known of any WAL any more. Says why, once for each outage. */
void fp_spill_cut(fp_spill *spill, uint64_t now, const char *why);
bool fp_spill_can_ask(const fp_spill *spill);
/* WAL_GET or WAL_OPEN for a ring. False: not sent, the connection is gone. */
bool fp_spill_ask(fp_spill *spill, fp_spill_ring *ring, enum fp_msg_type type, uint64_t now);
/* WRITEs the chunk's bytes, those from ring->sent to upto, to the landing ring and appends them. */
bool fp_spill_append(fp_spill *spill, fp_spill_ring *ring, fp_spill_chunk *chunk, uint64_t upto,
                     uint64_t now);
void fp_spill_chunks_close(fp_spill *spill);

/* spill_ring.c: all with the lock */

/* Reads the owner's line. */
void fp_spill_look(fp_spill_ring *ring, uint64_t now);
/* What the storage node says of the ring's WAL: writes the node's line. */
void fp_spill_note(fp_spill_ring *ring, const fp_msg *msg, uint64_t now);
/* The ring is not known to others yet: the node's line says that it is going to be spilled. */
void fp_spill_ring_begin(fp_spill_ring *ring);
/* Nothing is known of the storage node that it is spilled to from now on, or it is spilled nowhere any more (what was said
 * of another one does not stay): writes the node's line. */
void fp_spill_ring_retarget(fp_spill_ring *ring, bool spills, uint64_t now);
/* The storage node has said that nothing of what it has counts: writes the node's line. */
void fp_spill_note_worthless(fp_spill_ring *ring);
uint64_t fp_spill_ring_lag(const fp_spill_ring *ring);
/* What is to be asked or sent for this ring now. Returns true if a chunk was copied: there may be more. */
bool fp_spill_ring_step(fp_spill *spill, fp_spill_ring *ring, uint64_t now);
/* Nothing is asked for a while, the longer the more often that happens. Said once. */
void fp_spill_hold(fp_spill_ring *ring, int code, const char *why, uint64_t now);

#endif
