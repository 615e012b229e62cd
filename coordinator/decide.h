/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decisions (docs/coordinator.md, Decisions): what is kept and what is told -> what is to be kept next. No I/O, no clock
 * but model->now_ns. Called again and again: it makes the next change of each partition, and none when all is as it is
 * to be. The only things it changes itself are the times and counts of failures beside the records.
 */
#ifndef FP_COORDINATOR_DECIDE_H
#define FP_COORDINATOR_DECIDE_H

#include "coordinator/change.h"

/* Puts at most FP_CHANGE_ITEMS_MAX changes into changes, which is empty. */
void fp_decide(fp_model *model, fp_changes *changes);

/* Another owner: a higher epoch, phase fencing. The record, to be changed further. */
fp_part_record *fp_decide_owner(const fp_model *model, fp_changes *changes, const fp_part *part,
                                fp_member *owner, const char *kind, const char *why);
/* The lists of a deleted partition are left as they are until their nodes have given everything back. */
void fp_decide_delete(const fp_model *model, fp_changes *changes, const fp_part *part);

/* Have all nodes that are up been told of the partition's last change, or had time enough for it? */
bool fp_decide_all_told(const fp_model *model, const fp_part *part);
/* Of the partition's rings in this list: how many have told of its epoch, how many of these still have a log (ring), and
 * how many have told nothing of it. */
typedef struct fp_fences {
    unsigned told, logs, silent;
} fp_fences;
fp_fences fp_decide_fences(const fp_model *model, const fp_part *part, const fp_list *list);
/* If too few rings have a log, but enough did before a change that was not confirmed: the nodes before it are r's again. */
void fp_decide_go_back(const fp_model *model, const fp_part *part, fp_part_record *r);

/* ---- decide_nodes.c: of the list of memory nodes and of storage nodes ------------------------- */

/* What an open partition needs; false: nothing. */
bool fp_decide_memory(const fp_model *model, fp_changes *changes, fp_part *part);
/* Is memory node number i of an open partition up without what it is to hold? */
bool fp_decide_is_hollow(const fp_model *model, const fp_part *part, unsigned i);
/* Are enough rings left if number `leaving` (-1: none) goes? */
bool fp_decide_may_leave(const fp_model *model, const fp_part *part, int leaving);
/* Another memory node in the place of number `leaving`; -1: all are taken in anew. false: there is none, or too few rings
 * would be left. */
bool fp_decide_change(const fp_model *model, fp_changes *changes, const fp_part *part, int leaving,
                      const char *why);
/* Have the storage nodes of the list all that one has which leaves, or had when it was heard of last? What it alone has may
 * have been acknowledged as stored. */
bool fp_decide_can_replace(const fp_model *model, const fp_part *part, const fp_list *list,
                           const char *leaving);
bool fp_decide_storage(const fp_model *model, fp_changes *changes, const fp_part *part);
/* The storage nodes to which the partition's rings are spilled. */
void fp_decide_storagenodes(const fp_model *model, const fp_list *memnodes, unsigned rings,
                            fp_list *list);
/* Who makes a partition asks all of its storage nodes whether it is new (compute/redo_stored.c). Are they up? */
bool fp_decide_can_be_new(const fp_model *model, const fp_list *storagenodes);
/* Is one of its memory nodes lost, or to go? */
bool fp_decide_lacks_memory(const fp_model *model, const fp_part *part);
/* The nodes of a new partition, into its record: fills gaps, replaces whoever is not there. false: there are too few, and
 * nothing is changed. */
bool fp_decide_choose(const fp_model *model, const fp_part *part, fp_part_record *r);
/* Fills gaps and replaces whoever is not there; false: there are too few nodes. */
bool fp_decide_place(const fp_model *model, const fp_part *part, fp_list *list);
/* Replaces those who are lost, as far as there are others. What they have is given up. */
void fp_decide_replace_lost(const fp_model *model, const fp_part *part, fp_list *list);
void fp_decide_member(fp_model *model, fp_changes *changes, fp_member *member);
/* The memory node spills to another storage node. */
void fp_decide_spill(fp_changes *changes, const fp_member *memory, fp_member *storage);

/* ---- balance.c: for who asks for it ------------------------------------------------------------ */

/* One step towards nodes that are used evenly; no change: there is none. E_BUSY: a partition is on its way. */
int fp_balance(fp_model *model, fp_changes *changes) FARPOOL_MUST_CHECK;

#endif
