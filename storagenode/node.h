/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the storage node: server.c (its life), identity.c (which volume it is), requests.c (requests and their
 * answers), stored.c (the WAL of a partition: opened, closed, who appends to it), stored_get.c (reading it), stored_pages.c (its pages). */
#ifndef FP_STORAGENODE_NODE_H
#define FP_STORAGENODE_NODE_H

#include "common/mem.h"
#include "common/redo.h"
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

/* A connection of a client. */
typedef struct fp_storage_client {
    fp_server_client at;
    struct fp_request *requests, *last; /* not answered yet, in the order in which they came */
    unsigned request_count;
} fp_storage_client;

/* A request that is not answered yet. It outlives its client if something is under way for it. */
typedef struct fp_request {
    struct fp_request *next_of_client;
    struct fp_request *next;   /* in log->waiting or node->gets */
    fp_storage_client *client; /* NULL: gone */
    fp_stored *log;
    enum fp_msg_type type;
    uint32_t id;
    uint64_t epoch, bytes, lsn, pid;
    uint32_t offset;
    fp_wal_req wal;    /* APPEND */
    fp_store_req page; /* PAGE_GET */
    bool done;         /* with: */
    int status;
    char reason[FP_WIRE_TEXT_MAX + 1];
} fp_request;

typedef struct fp_requests {
    fp_request *first, **tail;
} fp_requests;

/*
 *             opened                        failed for good, or the node ends
 *   CLOSED ------------> OPENING -> OPEN ------------------------------------> CLOSING -> CLOSED
 *      ^                    |
 *      |  WAL_OPEN          v
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
    fp_wal_req req;   /* opens and closes it */
    bool over;        /* that is done; wal is to be freed outside of done() */
    bool wal_closing; /* CLOSING: its pages are closed, it is itself being closed */
    uint64_t make_at; /* the LSN at which it is made if there is none; 0: there is one */
    int broken;       /* why: code and words */
    char reason[512];

    fp_mem landing;
    fp_storage_client *streamer; /* the one who appends, or NULL */
    uint64_t streamer_epoch;     /* under which it opened */
    fp_mr *mr; /* of landing, with the streamer's transport, as long as there is one */

    uint64_t promised; /* epoch, durable */
    fp_wal_req fence;
    bool fencing;        /* fence is under way, for the first in waiting */
    fp_requests waiting; /* in order; WAL_OPEN always, others while it is not open */
    bool reading;        /* one of the readers is */
    fp_pages pages;
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
    bool work; /* fp_stored_all_work has something to do */

    fp_stored *logs;
    unsigned log_count, opening;
    uint64_t requests; /* not answered yet */
    fp_requests gets;  /* LOG_GETs that wait */
    fp_stored_reader readers[FP_STORAGE_READERS];
    uint64_t clock; /* counts uses of readers */
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
 * client and partition before it have been, and freed. Any client may be gone afterwards. */
void fp_request_done(fp_request *request, int status);
/* The same for a LOG_GET that has been read: server->answer is filled in. */
void fp_request_answer(fp_request *request);

/* ---- stored.c ----------------------------------------------------------------------------------- */

fp_stored *fp_stored_find(const fp_storagenode *node, uint64_t partition);
/* One more, CLOSED; it is opened soon. make_at: see fp_stored. NULL with a sentence: E_NOMEM, E_NOSPACE (too many). */
fp_stored *fp_stored_add(fp_storagenode *node, uint64_t partition, uint64_t make_at, int *rc);
/* Takes a WAL_OPEN, WAL_GET, WAL_APPEND. */
void fp_stored_take(fp_stored *log, fp_request *request);
/* Nobody appends any more; the landing ring's key is dead when it returns. */
void fp_stored_vacate(fp_stored *log);
/* What must not be done from within done(): opens, closes and frees WALs. */
void fp_stored_all_work(fp_storagenode *node);
/* The WAL_STATE for this client. An error: it could not be opened again. */
int fp_stored_state_get(const fp_stored *log, const fp_storage_client *client,
                        fp_msg *answer) FARPOOL_MUST_CHECK;
/* Closes all that are open; waits. */
void fp_stored_all_close(fp_storagenode *node);
/* The disk is closed. */
void fp_stored_all_free(fp_storagenode *node);

/* ---- stored_pages.c ----------------------------------------------------------------------------- */

/* Begins to open what page stores share. */
int fp_pages_begin(fp_storagenode *node) FARPOOL_MUST_CHECK;
/* What must not be done from within done(): opens, closes and frees the page store. True: the WAL is to be closed, and
 * may be. */
bool fp_pages_work(fp_stored *log);
void fp_pages_free(fp_stored *log);      /* the disk is closed */
void fp_pages_end(fp_storagenode *node); /* " all of them are freed */
void fp_pages_get(fp_request *request);
/* Those that wait: what they wait for is open, or never will be. */
void fp_pages_serve(fp_stored *log);

/* ---- stored_get.c ------------------------------------------------------------------------------- */

void fp_stored_get(fp_storagenode *node, fp_request *request);
/* Serves those that wait, as far as that can be done now. */
void fp_stored_gets(fp_storagenode *node);
/* The log is about to be closed or freed: nothing read from it is of use any more. */
void fp_stored_forget_read(fp_stored *log);
void fp_stored_readers_free(fp_storagenode *node);

#endif
