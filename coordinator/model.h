/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a coordinator knows: the records that are kept in the metastore (docs/coordinator.md, What is kept), and beside each
 * what only the one who leads knows: who is up, and what each has told of itself. No I/O. Records change only by
 * fp_model_put_* when the metastore has them; everything belongs to the coordinator's thread.
 */
#ifndef FP_COORDINATOR_MODEL_H
#define FP_COORDINATOR_MODEL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/net/net.h"

enum {
    FP_ID_ROOM = 64,  /* bytes of a name with its 0 */
    FP_LIST_MAX = 16, /* names in a list: as many as farpool_partition_options takes */
    FP_MEMBER_URIS_MAX = 8,
    FP_ADDRESS_ROOM = 256,
    FP_COPIES_MAX = 7,
    FP_PARTS_MAX = 500, /* not deleted: what one node is told of all of them fits into a call */
};
/* No epoch that a node tells of is followed beyond: there must be higher ones. */
#define FP_EPOCH_TOLD_MAX ((uint64_t)1 << 62)

typedef struct fp_list {
    unsigned count;
    char names[FP_LIST_MAX][FP_ID_ROOM];
} fp_list;

enum fp_role { FP_ROLE_MEMORY, FP_ROLE_STORAGE, FP_ROLE_COMPUTE, FP_ROLES };
enum fp_member_state { FP_MEMBER, FP_DRAINING, FP_DRAINED, FP_MEMBER_STATES };
enum fp_part_state { FP_ACTIVE, FP_READ_ONLY, FP_DELETED, FP_PART_STATES };
enum fp_phase { FP_UNOWNED, FP_FENCING, FP_ASSIGNED, FP_OPEN, FP_CHANGING, FP_DELETING, FP_PHASES };
enum fp_when_lost { FP_LOST_WAIT, FP_LOST_STORAGE, FP_WHEN_LOSTS };
enum fp_told_state {
    FP_TOLD_OPENING,
    FP_TOLD_OPEN,
    FP_TOLD_FAILED,
    FP_TOLD_CLOSED,
    FP_TOLD_STATES
};

extern const char *const fp_role_names[],
    *const fp_member_state_names[], *const fp_part_state_names[],
                                        *const fp_phase_names[], *const fp_when_lost_names[],
                                                                     *const fp_told_state_names[];
/* The index of text in names, or -1. */
int fp_word(const char *const *names, int count, const char *text);

/* A node that has ever joined. */
typedef struct fp_member_record {
    char name[FP_ID_ROOM];
    enum fp_role role;
    enum fp_member_state state;
    unsigned uri_count;
    char uris[FP_MEMBER_URIS_MAX][FP_NET_URI_MAX];
    char zone[FP_ID_ROOM], rack[FP_ID_ROOM], host[FP_ID_ROOM];
    char address[FP_ADDRESS_ROOM];
    char storage[FP_ID_ROOM]; /* empty: none */
    uint64_t bytes, boot_id;
    bool standby;
} fp_member_record;

/* What a node has told of one partition. */
typedef struct fp_told {
    uint64_t id, epoch;
    uint64_t ring, slab;      /* memory */
    bool blank;               /* memory: the ring has no log */
    bool whole;               /* storage, as is: */
    uint64_t durable;         /* LSN up to which the log is on its volume */
    enum fp_told_state state; /* compute, as is the rest */
    uint64_t held;            /* epoch under which it is, or was, open */
    int code;
    uint32_t lost;  /* bits: numbers of memory nodes that it uses no more */
    char text[160]; /* what goes wrong there, in words; empty: nothing */
} fp_told;

typedef struct fp_member {
    fp_member_record r;
    uint64_t revision; /* of its key */
    /* Known to the leader only; times are those of fp_model.now_ns. */
    bool joined;         /* a connection of its is there */
    bool heard_of;       /* has joined since this coordinator leads */
    uint64_t heard_ns;   /* last, 0: never */
    uint64_t lost_at_ns; /* taken for lost from then on */
    uint64_t told_ns;    /* when `told` came */
    uint64_t seen;       /* revision of the duties that it follows */
    fp_told *told;       /* by id */
    size_t told_count;
    json_t *actual; /* as it came, NULL: none */
    /* Given to it by changes that are being made: partitions, bytes, rings, memory nodes that spill to it. */
    struct {
        uint64_t bytes;
        unsigned parts, rings, spillers;
    } planned;
} fp_member;

typedef struct fp_part_record {
    uint64_t id, epoch, opened, owner_boot;
    char name[FP_ID_ROOM], owner[FP_ID_ROOM], wish[FP_ID_ROOM]; /* empty: none */
    enum fp_part_state state;
    enum fp_phase phase;
    enum fp_when_lost when_lost;
    bool made, stored;
    uint64_t doubt; /* epoch under which the first who may have made it was to; 0: nobody has */
    fp_list memnodes, before, storagenodes;
    uint64_t slab_bytes, space_bytes, log_ring_bytes;
    unsigned log_copies, log_quorum, storage_quorum, memnode_count;
} fp_part_record;

typedef struct fp_part {
    fp_part_record r;
    uint64_t epoch_revision; /* of the change to this epoch, or a later one */
    /* Known to the leader only. */
    uint64_t since_ns;         /* of this phase, or of its being known here */
    uint64_t retry_at_ns;      /* after a failure nothing is tried earlier */
    uint64_t failed_epoch;     /* of the last failure counted */
    unsigned failures;         /* in a row */
    char avoid[FP_ID_ROOM];    /* memory node with which a change came to nothing */
    char declined[FP_ID_ROOM]; /* compute node that could not open or use it, the last one */
    char hollow[FP_ID_ROOM];   /* memory node that was taken in anew by the last change; or empty */
    char failure[200];         /* the last one, in words; empty: none */
} fp_part;

typedef struct fp_settings {
    unsigned heartbeat_ms, grace_ms, lost_ms, replace_ms, replace_storage_ms;
} fp_settings;

typedef struct fp_model {
    fp_settings settings;
    fp_member **members; /* by name */
    size_t member_count, member_room;
    fp_part **parts; /* by id */
    size_t part_count, part_room;
    uint64_t next_partition, next_event;
    uint64_t next_revision;  /* of the key `next`; 0: none yet */
    uint64_t term, revision; /* revision: up to which all is known */
    char cluster[FP_ID_ROOM];
    bool cluster_kept; /* else it is written with the first change */
    uint64_t now_ns;
    uint64_t patient_ns; /* no node is lost for want of a connection before that */
} fp_model;

void fp_model_clear(fp_model *model);                                /* settings and now_ns stay */
fp_member *fp_model_member(const fp_model *model, const char *name); /* or NULL */
fp_part *fp_model_part(const fp_model *model, uint64_t id);
fp_part *fp_model_part_named(const fp_model *model, const char *name); /* not of deleted ones */
/* By name, or by number. */
fp_part *fp_model_part_called(const fp_model *model, const char *text);
/* Makes or replaces it. What is known beside the record stays. E_NOMEM. */
int fp_model_put_member(fp_model *model, const fp_member_record *record,
                        uint64_t revision) FARPOOL_MUST_CHECK;
int fp_model_put_part(fp_model *model, const fp_part_record *record,
                      uint64_t revision) FARPOOL_MUST_CHECK;
void fp_model_remove_member(fp_model *model, const char *name);
/* Of the next partition: higher than any that was given away, also by a metastore that was lost. */
uint64_t fp_model_next_part(const fp_model *model);

/* Takes what a node tells, which stays the caller's. E_PROTO, E_NOMEM: nothing is changed. */
int fp_member_tell(fp_model *model, fp_member *member, const json_t *actual) FARPOOL_MUST_CHECK;
/* As if it had told nothing yet. */
void fp_member_forget_told(fp_member *member);
const fp_told *fp_member_told(const fp_member *member, uint64_t id); /* or NULL */
/* What the node of this name, if there is one, has told of the partition, or NULL. */
const fp_told *fp_model_told(const fp_model *model, const char *name, uint64_t id);
/* Nobody was listened to between then and now: who was not heard may have spoken all the same, and has lost_ms again. */
void fp_model_stood_still(fp_model *model, uint64_t since_ns);
/* It was heard; its connection has gone; it has taken its leave. */
void fp_member_heard(fp_model *model, fp_member *member);
void fp_member_gone(fp_model *model, fp_member *member, bool left);
static inline bool fp_member_lost(const fp_model *model, const fp_member *member)
{
    return model->now_ns >= member->lost_at_ns;
}
static inline bool fp_member_up(const fp_model *model, const fp_member *member)
{
    return member->joined && !fp_member_lost(model, member);
}
bool fp_member_lost_for(const fp_model *model, const fp_member *member, unsigned ms);

bool fp_list_has(const fp_list *list, const char *name);
int fp_list_index(const fp_list *list, const char *name); /* or -1 */
bool fp_list_add(fp_list *list, const char *name);        /* false: full */
void fp_list_remove(fp_list *list, const char *name);
bool fp_list_same(const fp_list *a, const fp_list *b);

/* Is it a name: 1 to 63 of letters, digits, '.', '_', '-', not a number alone? E_INVAL: what names it. */
int fp_name_check(const char *what, const char *name) FARPOOL_MUST_CHECK;

/* Not deleted, or nodes have still something of it. */
static inline bool fp_part_is_there(const fp_part *part)
{
    return part->r.state != FP_DELETED || part->r.phase == FP_DELETING;
}
/* Nobody can have made it. */
static inline bool fp_part_is_new(const fp_part_record *r) { return !r->made && !r->doubt; }
/* Is it one of its memory nodes now? */
static inline bool fp_part_uses(const fp_part *part, const char *name)
{
    return fp_list_has(&part->r.memnodes, name) || fp_list_has(&part->r.before, name);
}
/* Has the node, of whatever role, something to do with it now? */
static inline bool fp_part_concerns(const fp_part *part, const char *name)
{
    return !strcmp(part->r.owner, name) || fp_part_uses(part, name) ||
           fp_list_has(&part->r.storagenodes, name);
}
static inline unsigned fp_part_rings(const fp_part_record *r, const fp_list *list)
{
    return list->count < r->log_copies ? list->count : r->log_copies;
}
/* So many rings are in each quorum's way, and can tell of each commit. */
static inline unsigned fp_part_need(const fp_part_record *r)
{
    return r->log_copies - r->log_quorum + 1;
}
static inline uint64_t fp_ms(uint64_t ms) { return ms * 1000000u; }

#endif
