/* SPDX-License-Identifier: Apache-2.0 */
/* Who is chosen for what. Pure: equal models give equal answers; ties go by name. */
#ifndef FP_COORDINATOR_PLACE_H
#define FP_COORDINATOR_PLACE_H

#include "coordinator/model.h"
#include "farpool.h"

/* Nothing is being given to anybody: the changes that did are made. */
void fp_place_afresh(fp_model *model);

/* Is it up, not drained, and of this role: may it be given something? */
bool fp_place_may(const fp_model *model, const fp_member *member, enum fp_role role);

/* Memory that place `at` of a partition's list takes: its share of the slab, and a ring. */
uint64_t fp_place_bytes(const fp_part_record *record, unsigned at);
/* What it has promised of its memory to partitions, but for one. */
uint64_t fp_place_used(const fp_model *model, const fp_member *member, const fp_part *but);
unsigned fp_place_rings(const fp_model *model, const fp_member *member);

/* How many of the others of the list are in the same zone, rack, host as the node that stands, or is to stand, in
 * list->names[at], and, of rings, spill to the same storage node. A domain that nobody has named is no domain. */
enum { FP_PLACE_DOMAINS = 3, FP_PLACE_SHARED };
void fp_place_shared(const fp_model *model, const fp_member *member, const fp_part *part,
                     const fp_list *list, unsigned at, uint64_t shared[FP_PLACE_SHARED]);

/* A memory node that is up and has room, to stand in list->names[at] of this partition. Others of its list are kept apart
 * from it: another zone, else another rack, else another host, and, for a ring, another storage node; of those the
 * one with least memory promised, then with fewest rings. avoid is taken last. NULL: there is none. */
fp_member *fp_place_memory(const fp_model *model, const fp_part *part, const fp_list *list,
                           unsigned at, const char *avoid);

/* The storage node to which a memory node is to spill instead of its present one: up, such that each partition's log gets
 * to as many storage nodes as it has rings, then in its zone, then the one with fewest memory nodes. NULL: there is none. */
fp_member *fp_place_storage(const fp_model *model, const fp_member *memory);
/* The same, if it is better than `now`. With rings, it moves only to spread their logs, for the new one has to be filled,
 * unless all may be moved. What is compared gets less with each move, so moves come to an end. */
fp_member *fp_place_better_storage(const fp_model *model, const fp_member *memory,
                                   const fp_member *now, bool all);

/* How many partitions a compute node owns. */
unsigned fp_place_parts(const fp_model *model, const fp_member *member);
/* Who is to own the partition: a standby that is up, with fewest partitions, and has room for one more, not `but` (may
 * be ""). NULL: there is none. */
fp_member *fp_place_owner(const fp_model *model, const char *but);

#endif
