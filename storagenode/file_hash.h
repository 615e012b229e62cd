/* SPDX-License-Identifier: Apache-2.0 */
/* The hash by which files are named: XXH3-128, with the widest vectors that the machine has, where the library can tell
 * at run time: three times as fast as what every x86-64 has. */
#ifndef FP_STORAGENODE_FILE_HASH_H
#define FP_STORAGENODE_FILE_HASH_H

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif
