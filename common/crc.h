/* SPDX-License-Identifier: Apache-2.0 */
/* CRC-32C (Castagnoli, RFC 3720 B.4), by isa-l. */
#ifndef FP_COMMON_CRC_H
#define FP_COMMON_CRC_H

#include <isa-l/crc.h>
#include <stddef.h>
#include <stdint.h>

/* crc of data appended to what gave `crc`; start with 0. */
static inline uint32_t fp_crc32c(uint32_t crc, const void *data, size_t len)
{
    /* isa-l takes len as an int and never writes to the buffer */
    return ~crc32_iscsi((unsigned char *)(uintptr_t)data, (int)len, ~crc);
}

#endif
