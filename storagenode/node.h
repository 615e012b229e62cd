/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the storage node: server.c (its life), identity.c (which volume it is), requests.c (requests and their
 * answers), access.c (who may ask for what), stored.c (the WAL of a partition: opened, closed, who appends to it), stored_get.c (reading it), stored_landing.c (where it arrives),
 * stored_join.c (which log it is), stored_drop.c (deleting it), duties.c (what coordinators say), stored_pages.c (its pages), stored_copy.c (giving them away), refill*.c and peer.c (getting what is missing). */
#ifndef FP_STORAGENODE_NODE_H
#define FP_STORAGENODE_NODE_H

#include "common/mem.h"
#include "common/redo.h"
#include "storagenode/copy.h"
#include "storagenode/server.h"
#include "storagenode/store.h"

enum {
    FP_STORAGE_LOGS_MAX = 4096,
    FP_STORAGE_REQUESTS_MAX = 64, /* of a connection at a time */
    FP_STORAGE_OPENING_MAX = 8,   /* WALs being opened at a time: each reads all of its log */
    FP_STORAGE_LANDING_MIN = 1 << 20,
    FP_STORAGE_SETUP_BYTES = 2 * FP_DISK_ALIGN,
    FP_STORAGE_READERS = 8,
    FP_STORAGE_READER_BYTES = 1 << 20,
};

typedef struct fp_stored fp_stored;
typedef struct fp_access fp_access;

/* A connection of a client. */
typedef struct fp_storage_client {
    fp_server_client at;
    struct fp_request *requests, *last; /* not answered yet, in the order in which they came */
    unsigned request_count;
    fp_copy *copy;  /* what it is given of a partition's pages, or NULL */
    bool copy_busy; /* the first FILE_GET in requests waits for the disk */
} fp_storage_client;

/* A request that is not answered yet. It outlives its client if something is under way for it. */
typedef struct fp_request {
    struct fp_request *next_of_client;
    struct fp_request *next;   /* in log->waiting or node->gets */
    fp_storage_client *client; /* NULL: gone */
    fp_stored *log;
    enum fp_msg_type type;
    uint32_t id;
    uint64_t epoch, bytes, lsn, pid, at, fork;
    fp_lineage lineage;
    uint32_t offset;
    uint8_t hash[FP_WIRE_HASH_BYTES];
    fp_wal_req wal;    /* APPEND */
    uint64_t held_ns;  /* " since when it is held */
    fp_store_req page; /* PAGE_GET, MANIFEST_GET */
    bool done;         /* with: */
    int status;
    char reason[FP_WIRE_TEXT_MAX + 1];
} fp_request;

typedef struct fp_requests {
    fp_request *first, **tail;
} fp_requests;

/*
 *             opened                   failed for good, begun anew, or the node ends
 *   CLOSED ------------> OPENING -> OPEN ------------------------------------> CLOSING -> CLOSED
 *      ^                    |
 *      |  WAL_OPEN, refill  v
 *      +----------------- BROKEN      (one that was to be made goes instead)
 */
enum fp_stored_state {
    FP_STORED_CLOSED,
    FP_STORED_OPENING,
    FP_STORED_OPEN,
    FP_STORED_CLOSING,
    FP_STORED_BROKEN
};

enum fp_pages_state {
    FP_PAGES_CLOSED,
    FP_PAGES_OPENING,
    FP_PAGES_OPEN,
    FP_PAGES_CLOSING,
    FP_PAGES_BROKEN
};

typedef struct fp_pages {
    enum fp_pages_state state;
    fp_store *store;
    fp_store_req req; /* opens and closes it */
    bool over;        /* store is to be freed outside of done() */
    int broken;       /* why: code and words */
    char reason[512];
    bool lacking; /* a layer is damaged, or nothing from before the WAL's beginning is here */
    bool rotten;  /* since it was opened somebody has met with damage */
    /* From this LSN on the log here cannot be read back: layers must go beyond it. 0: it can. */
    uint64_t unreadable;
    fp_requests waiting; /* while it is not open */
    fp_store_req last;   /* what was given out last; last.page is ours */
} fp_pages;

/* The WAL of a partition. */
struct fp_stored {
    fp_stored *next;
    struct fp_storagenode *node;
    uint64_t partition;
    enum fp_stored_state state;
    fp_wal *wal;
    fp_wal_req req;      /* opens and closes it */
    bool over;           /* that is done; wal is to be freed outside of done() */
    bool wal_closing;    /* CLOSING: its pages are closed, it is itself being closed */
    uint64_t make_at;    /* the LSN at which it is made if there is none; 0: there is one */
    uint64_t restart_at; /* the LSN at which it is begun anew when it is opened next, or 0 */
    fp_lineage lineage;  /* of what is made or begun anew then */
    int broken;          /* why: code and words */
    char reason[512];
    char trouble[256];   /* why the last append failed; empty: it has not */
    uint64_t trouble_ns; /* when that was logged last */

    fp_mem landing;
    fp_storage_client *streamer; /* the one who appends, or NULL */
    uint64_t streamer_epoch;     /* under which it opened */
    uint64_t idle_ns,
        wanted_ns; /* since when others would append and it does not, and last said so */
    fp_mr *mr;     /* of landing, with the streamer's transport, as long as there is one */

    uint64_t promised; /* epoch, durable */
    bool stray;        /* the log is not the partition's: it is about to be closed for good */
    fp_wal_req fence;
    bool fencing;        /* fence is under way, to promise or to join, for the first in waiting */
    fp_requests waiting; /* in order; WAL_OPEN always, others while it is not open */
    fp_requests held;    /* appends that are durable, but the page store is behind */
    bool reading;        /* one of the readers is */
    fp_pages pages;

    /* What should be got from another storage node: refill.h. */
    uint64_t wanted_upto; /* log up to here was here, or goes with the pages that are */
    uint64_t wanted_fork; /* at least, of a peer's log that is to take the place of a stray one */
    /* Log up to here is needed so that somebody can append behind it: as long as he says so again and again. */
    uint64_t gap_upto, gap_ns;             /* gap_ns: when he did last */
    uint64_t refill_ns, refill_backoff_ns; /* not tried before */
    bool refill_said;                      /* that it failed */
    fp_take *
        take; /* to be installed when the pages are closed; NULL when that has been done, or has failed: */
    bool installing; /* " is under way */
    fp_kept install;

    /* stored_drop.c */
    uint64_t drop_epoch;  /* it is to be deleted, if none above that is promised; 0: it is not */
    bool dropping;        /* that is so */
    struct fp_drop *drop; /* what the disk has under way for that */
    int drop_failed;      /* not tried again before somebody wants it once more */
    bool dropped;         /* it is to be freed outside of done() */
};

/* Frames read for LOG_GET, so that who reads on finds the next piece here. */
typedef struct fp_stored_reader {
    struct fp_storagenode *node;
    fp_stored *log; /* NULL: nothing is in it */
    uint64_t from, to;
    uint8_t *buffer; /* byte l is at l - from rounded down to a block */
    size_t room;
    fp_request *request; /* for which it is reading; NULL: not reading */
    uint64_t used;       /* when, by node->clock */
    fp_wal_req wal;
} fp_stored_reader;

/* Everything belongs to the thread that drives the node. */
struct fp_storagenode {
    fp_server server; /* its clients are fp_storage_client */
    char *path;
    int lock_fd; /* -1: simulated */
    fp_disk *disk;
    uint64_t volume_id;
    uint64_t segment_bytes, convert_bytes;
    fp_volume *files; /* of the page stores */
    fp_volume_req files_req;
    bool files_open; /* or not, for the reason in files_status */
    int files_status;
    fp_disk_req setup; /* of fp_identity_open, as are: */
    uint8_t *setup_bytes;
    bool setup_done;
    bool closing;
    bool in_cluster;     /* coordinators say who may do what: */
    json_t *access_said; /* their last word */
    fp_access *access;   /* of it, by partition; NULL: they have not said anything yet */
    size_t access_count;
    bool was_ready; /* fp_storagenode_ready has said so */
    bool work;      /* fp_stored_all_work has something to do */
    bool drops;     /* fp_stored_drops has something to do */
    unsigned held;  /* appends in any held: looked at whenever something has happened */

    fp_stored *logs;
    unsigned log_count, opening;
    uint64_t requests; /* not answered yet */
    fp_requests gets;  /* LOG_GETs that wait */
    fp_stored_reader readers[FP_STORAGE_READERS];
    uint64_t clock;           /* counts uses of readers */
    struct fp_refill *refill; /* NULL: there are no peers */
};

void fp_requests_init(fp_requests *list);
void fp_requests_add(fp_requests *list, fp_request *request);
fp_request *fp_requests_take(fp_requests *list);

/* ---- identity.c -------------------------------------------------------------------------------- */

/* Reads the volume's number, or makes the volume: with the number wanted, or a random one if that is 0. Adds a log for
 * each WAL that is there. Waits. */
int fp_identity_open(fp_storagenode *node, uint64_t wanted) FARPOOL_MUST_CHECK;

/* ---- requests.c ------------------------------------------------------------------------------ */

/* Answers node->server.request, at once or later. */
void fp_storage_request(void *node, fp_server_client *client);
void fp_storage_dropped(void *node, fp_server_client *client);
/* A request is over: status 0 or a code, whose words are farpool_errmsg(). It is answered, when those of the same
 * client and partition before it have been, and freed. Any client may be gone afterwards; true: its own is not. */
bool fp_request_done(fp_request *request, int status);
/* The same for one that is answered by what is in server->answer. */
bool fp_request_answer(fp_request *request);

/* ---- access.c -------------------------------------------------------------------------------- */

/* What coordinators say of it (docs/coordinator.md, duties of storage nodes). */
void fp_access_take(fp_storagenode *node, const json_t *duties);
void fp_access_free(fp_storagenode *node);
/* Whether the client may ask for what is in server.request, which is about a partition. E_REFUSED, E_FENCED (of an owner
 * before), E_RETRY (nothing is known of it yet). */
int fp_access_check(const fp_storagenode *node, const fp_storage_client *client) FARPOOL_MUST_CHECK;

/* ---- stored.c ----------------------------------------------------------------------------------- */

fp_stored *fp_stored_find(const fp_storagenode *node, uint64_t partition);
/* One more, CLOSED; it is opened soon. make_at, lineage (NULL: none): see fp_stored. NULL with a sentence: E_NOMEM, E_NOSPACE (too many). */
fp_stored *fp_stored_add(fp_storagenode *node, uint64_t partition, uint64_t make_at,
                         const fp_lineage *lineage, int *rc);
/* Takes a WAL_OPEN, WAL_GET, WAL_APPEND. */
void fp_stored_take(fp_stored *log, fp_request *request);
/* What must not be done from within done(): opens, closes and frees WALs. */
void fp_stored_all_work(fp_storagenode *node);
/* Begins the WAL, open or broken, anew at this LSN, up to which all is in layers, or will be when log->take is
 * installed, as a log of this lineage. What is asked meanwhile waits. */
void fp_stored_restart(fp_stored *log, uint64_t lsn, const fp_lineage *lineage);
/* Lets it finish; the pages are closed before. */
void fp_stored_begin_closing(fp_stored *log);
/* Those in waiting, as far as that can be done now. */
void fp_stored_serve(fp_stored *log);
/* done() of log->fence, for the first in waiting. */
void fp_stored_promised(fp_wal_req *req);

/* The WAL_STATE for this client. An error: it could not be opened again. */
int fp_stored_state_get(const fp_stored *log, const fp_storage_client *client,
                        fp_msg *answer) FARPOOL_MUST_CHECK;
/* Those who wait are told this. */
void fp_stored_refuse(fp_stored *log, int code);
/* There is nothing of it any more: frees it. */
void fp_stored_forget(fp_stored *log);
/* Closes all that are open; waits. */
void fp_stored_all_close(fp_storagenode *node);
/* The disk is closed. */
void fp_stored_all_free(fp_storagenode *node);

/* ---- stored_drop.c ------------------------------------------------------------------------------ */

typedef struct fp_drop fp_drop;
/* What is here of the partition under this epoch or a lower one is to be deleted, soon. */
void fp_stored_drop(fp_storagenode *node, uint64_t partition, uint64_t epoch);
/* What must not be done from within done(): goes on with what is to be deleted. */
void fp_stored_drops(fp_storagenode *node);
/* 0, or E_RETRY: it is being deleted. */
int fp_stored_check_dropping(const fp_stored *log) FARPOOL_MUST_CHECK;

/* ---- stored_join.c ------------------------------------------------------------------------------ */

/* A WAL_JOIN, on an open WAL. 1: it waits for what it has started. */
int fp_stored_join(fp_stored *log, const fp_request *request) FARPOOL_MUST_CHECK;
/* Whether the WAL, which is open, is for sure of the log whose last fork this is. E_RETRY: not, or not yet. */
int fp_stored_check_fork(const fp_stored *log, uint64_t fork) FARPOOL_MUST_CHECK;

/* ---- stored_landing.c --------------------------------------------------------------------------- */

/* Of a landing ring for such frames. */
size_t fp_stored_landing_bytes(uint64_t frame_bytes);
/* A longer landing ring; nobody appends any more then. 1: not before what has been appended is durable. */
int fp_stored_grow(fp_stored *log, size_t bytes);
/* Makes the client of this WAL_OPEN the one who appends; 1 as above. */
int fp_stored_occupy(fp_stored *log, const fp_request *request);
/* Nobody appends any more; the landing ring's key is dead when it returns. */
void fp_stored_vacate(fp_stored *log);

/* ---- stored_pages.c ----------------------------------------------------------------------------- */

/* Begins to open what page stores share. */
int fp_pages_begin(fp_storagenode *node) FARPOOL_MUST_CHECK;
/* What must not be done from within done(): opens, closes and frees the page store. True: the WAL is to be closed, and
 * may be. */
bool fp_pages_work(fp_stored *log);
/* An append that is durable: it is answered now, or held. */
void fp_pages_answer(fp_stored *log, fp_request *request);
/* Answers appends that are held, as long as the page store keeps up, all when there is none. Who makes log faster than
 * it becomes pages waits so: the rings fill. Otherwise log that is not in layers would grow without end. */
void fp_pages_release(fp_stored *log);
void fp_pages_free(fp_stored *log);      /* the disk is closed */
void fp_pages_end(fp_storagenode *node); /* " all of them are freed */
void fp_pages_get(fp_request *request);
/* Those that wait: what they wait for is open, or never will be. */
void fp_pages_serve(fp_stored *log);

/* Installs log->take; the pages are not open. */
void fp_pages_install(fp_stored *log, uint64_t generation);

/* ---- stored_get.c ------------------------------------------------------------------------------- */

void fp_stored_get(fp_storagenode *node, fp_request *request);
/* Serves those that wait, as far as that can be done now. */
void fp_stored_gets(fp_storagenode *node);
/* The log is about to be closed or freed: nothing read from it is of use any more. */
void fp_stored_forget_read(fp_stored *log);
void fp_stored_readers_free(fp_storagenode *node);

/* ---- refill.c, refill_life.c -------------------------------------------------------------------- */

int fp_refill_open(fp_storagenode *node, const fp_storagenode_config *config) FARPOOL_MUST_CHECK;
/* Cuts the connections to peers; what the disk has under way for them is finished. */
void fp_refill_stop(fp_storagenode *node);
void fp_refill_stopped(fp_storagenode *node); /* all WALs and pages are closed, the disk is not */
void fp_refill_free(fp_storagenode *node);    /* the disk is closed */
int fp_refill_fd(const fp_storagenode *node); /* to be waited for; -1: none */
/* Goes on with what can be done now. True: there is more to do at once. */
bool fp_refill_step(fp_storagenode *node);
/* Some partition may need something now. */
void fp_refill_look(fp_storagenode *node);
/* These take the place of the peers there are, soon. */
void fp_refill_set_peers(fp_storagenode *node, const json_t *uris);
/* Somebody has log from this LSN on, which is behind the WAL's end. */
void fp_refill_gap(fp_stored *log, uint64_t lsn);

/* ---- stored_copy.c ------------------------------------------------------------------------------ */

/* MANIFEST_GET and FILE_GET. */
void fp_stored_copy(fp_request *request);
/* What such a client was given is held no more. */
void fp_stored_copy_end(fp_storage_client *client);

#endif
