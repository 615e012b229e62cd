/* SPDX-License-Identifier: Apache-2.0 */
/* Transfers of pages: their slot headers and checksums, and what happens when they are done. Called by
 * whoever owns the thread (fp_thread.busy). */
#ifndef FP_COMPUTE_IO_H
#define FP_COMPUTE_IO_H

#include "compute/pool.h"

/* A free transfer, filled in but for its page; waits for one of the thread's own to end if all are in
 * flight. */
fp_io *fp_io_take(fp_thread *thread, enum fp_io_kind kind, farpool_partition *partition,
                  farpool_pid pid, unsigned order, uint32_t frame);
/* The same for a WRITE to a ring, when there is a free one. */
fp_io *fp_io_take_ring(fp_thread *thread, unsigned ring, uint64_t lsn);
void fp_io_put(fp_thread *thread, fp_io *io);

/* CRC-32C of the page in its landing place. */
uint32_t fp_io_page_crc(const fp_io *io);

/* Before a WRITE: the slot header and io.crc, of the page as it is now. */
void fp_io_seal(fp_io *io);

/* After a READ: checks the checksum, makes the page readable at its address, and records its
 * frame. The entry stays latched exclusively. On error the frame holds nothing; the landing place is
 * given back in any case. */
int fp_io_arrive(fp_io *io) FARPOOL_MUST_CHECK;

/* Instead of a READ, of a page that no slot has and whose redo begins with its allocation: zeros and its redo. */
int fp_io_begin_as_zeros(fp_io *io) FARPOOL_MUST_CHECK;
/* Instead of a READ: the page is in its landing place, from a storage node. It gets its redo and is dirty, for no
 * slot has it. */
int fp_io_take_stored(fp_io *io) FARPOOL_MUST_CHECK;

/* Polls, and finishes the prefetches that have arrived. Faults and writes that are done are left with
 * their `done` set for whoever waits for them. */
void fp_io_progress(fp_thread *thread, int timeout_ms);

/* Takes in what has arrived for threads of the pool that are not looking just now. Whoever owns a thread
 * looks after that one's prefetches himself. */
void fp_io_help(farpool_pool *pool);

/* Turns of waiting (fp_io_relax) for a place in pool.xfer, which mappings tell by E_POOL_FULL. */
enum { FP_IO_STAGE_TRIES = 1 << 16 };

/* One turn of waiting for what other transfers hold: takes in what has arrived for the thread, which the
 * caller owns, and for others, and lets other threads run. */
void fp_io_relax(fp_thread *thread);

/* Waits for a fault or a write of the thread's own to be done. */
void fp_io_wait(fp_thread *thread, fp_io *io);

/* Leaves EXCLUSIVE (W2): the entry gets `state` and the flags given (FP_WORD_DIRTY or 0), sleepers are
 * woken. */
void fp_entry_leave(fp_entry *entry, unsigned state, uint64_t set_flags, uint64_t clear_flags);

/* Gives one SHARED latch up, waking sleepers if it was the last. */
void fp_shared_leave(fp_entry *entry);

#endif
