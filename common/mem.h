/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for frames, slabs and staging: huge pages where there are any, NUMA-bound, shareable. */
#ifndef FP_COMMON_MEM_H
#define FP_COMMON_MEM_H

#include <stddef.h>

#include "farpool.h"

/* Memory that can be registered for remote access (common/net/net.h). */
typedef struct fp_mem {
    void *addr;
    size_t len;
    int fd;            /* the memfd behind it, or -1: then shm can not share it with a peer */
    size_t page_bytes; /* size of the pages behind it */
} fp_mem;

enum fp_mem_flags {
    FP_MEM_SHARED = 1,   /* behind a memfd, so that shm can pass it to a peer */
    FP_MEM_POPULATE = 2, /* touch every page now */
    FP_MEM_RESERVE = 4,  /* address space only, zero on first touch, charged as it is touched */
};

/* Maps len bytes (rounded up to the page size used), zeroed: 2 MiB huge pages when the machine has
 * enough of them reserved, else ordinary pages with transparent huge pages asked for. numa_node -1: not
 * bound. Errors: E_NOMEM, E_SYS. */
int fp_mem_open(size_t len, unsigned flags, int numa_node, fp_mem *mem) FARPOOL_MUST_CHECK;
void fp_mem_close(fp_mem *mem);

#endif
