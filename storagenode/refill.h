/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Getting from another storage node what is missing here of a partition: log behind the end of the WAL, the pages, or
 * all of it. docs/storage.md, Refilling. One partition at a time, from one peer after the other.
 *
 *   IDLE -> CONNECT -> STATE -+-> LOG -> APPEND -> HELD -> LOG ... -> FOLLOW
 *                        ^    |    ^
 *                        |    |    | as far as the layers go
 *                        |    +-> MANIFEST -> LOOK <-> FILE <-> ADD -> READY -> INSTALL
 *                        |                                                        |
 *                        +--------------------------------------------------------+
 *
 * Everything is of the node's thread.
 */
#ifndef FP_STORAGENODE_REFILL_H
#define FP_STORAGENODE_REFILL_H

#include "storagenode/node.h"
#include "storagenode/peer.h"

enum fp_refill_step {
    FP_REFILL_IDLE,
    FP_REFILL_CONNECT,
    FP_REFILL_STATE,    /* how far is the peer? */
    FP_REFILL_LOG,      /* log is asked for */
    FP_REFILL_APPEND,   /* and appended */
    FP_REFILL_HELD,     /* until layers have been made of enough of it */
    FP_REFILL_FOLLOW,   /* all that the peer has is here; somebody is about to append behind it */
    FP_REFILL_MANIFEST, /* is asked for */
    FP_REFILL_LOOK,     /* for a file that is not here */
    FP_REFILL_FILE,     /* it is asked for */
    FP_REFILL_ADD,      /* and written */
    FP_REFILL_READY,    /* all files are here, but perhaps not the log up to them */
    FP_REFILL_INSTALL,  /* stored.c and stored_pages.c put them in the place of what was */
};

enum fp_refill_needs {
    FP_NEEDS_LOG = 1,
    FP_NEEDS_PAGES = 2,
    FP_NEEDS_ALL = 4,
    FP_NEEDS_RESTART = 8, /* its pages are here, but its WAL could not begin anew behind them */
};

typedef struct fp_refill {
    fp_storagenode *node;
    fp_peer *peers[FP_STORAGENODE_PEERS_MAX];
    unsigned peer_count;
    json_t *other_peers; /* URIs that take the place of those, or NULL */
    const fp_net_options *peer_net;
    fp_wake wake;
    bool look; /* some partition may need something */
    bool stopping;
    enum fp_refill_step step;
    fp_stored *log; /* being refilled; NULL: none */
    unsigned peer;  /* from this one */
    bool disk_busy; /* something of ours is under way there: until it is done nothing is given up */
    fp_kept failed; /* then this peer is given up */
    uint64_t wait_ns;     /* HELD, FOLLOW, READY: when to look again */
    uint64_t patience_ns; /* READY: until then */
    uint64_t begin_ns, log_bytes, file_bytes;
    uint64_t refills, all_log_bytes, all_file_bytes; /* so far, of all partitions */
    bool began;                                      /* something came */
    bool took;                                       /* pages were installed */
    fp_msg state;                                    /* what the peer has: WAL_STATE */
    uint8_t *buffer;       /* log from the WAL's end on; or the manifest; or a piece of a file */
    uint64_t have, room;   /* bytes */
    uint64_t asked, total; /* of a file or manifest */
    fp_take *take;
    fp_wal_req append;
    fp_msg msg;
} fp_refill;

/* What the partition should get from others: fp_refill_needs. */
unsigned fp_refill_needs(const fp_stored *log);

/* ---- refill_log.c ---------------------------------------------------------------------------- */

void fp_refill_log_begin(fp_refill *refill);
void fp_refill_log_answer(fp_refill *refill);
void fp_refill_log_held(fp_refill *refill, uint64_t now);

/* ---- refill_pages.c -------------------------------------------------------------------------- */

void fp_refill_pages_begin(fp_refill *refill);
void fp_refill_pages_answer(fp_refill *refill);
void fp_refill_pages_ready(fp_refill *refill, uint64_t now);
void fp_refill_pages_installed(fp_refill *refill);

/* ---- refill_life.c --------------------------------------------------------------------------- */

/* Takes other_peers for peers, if that is possible now; what is under way is given up. */
void fp_refill_take_peers(fp_refill *refill);

/* ---- refill.c -------------------------------------------------------------------------------- */

/* What is under way is given up, and begun anew later; the disk is not busy with it. */
void fp_refill_let_go(fp_refill *refill);

/* Sends it to the peer that is asked now. */
void fp_refill_ask(fp_refill *refill, fp_msg *msg);
/* This peer is of no use: with farpool_errmsg(). */
void fp_refill_fail(fp_refill *refill, int status);
/* The pages are installed, but the WAL has not begun anew where they end: that alone is tried again later. */
void fp_refill_not_begun(fp_refill *refill);
/* What this peer was asked for is here; is there more? */
void fp_refill_again(fp_refill *refill);
/* Pages that have come, but are not to be installed. */
void fp_refill_drop_take(fp_refill *refill);
/* Memory for so many bytes in refill->buffer, which stay; false: failed. */
bool fp_refill_room(fp_refill *refill, uint64_t bytes);
uint64_t fp_refill_now(const fp_refill *refill);

#endif
