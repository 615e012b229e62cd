/* SPDX-License-Identifier: Apache-2.0 */
/* The file system that is measured, and somebody else's figures of it: fio's (package fio). */
#ifndef FP_BENCH_DISK_H
#define FP_BENCH_DISK_H

#include <jansson.h>

enum { BENCH_PATH_MAX = 256 };

/* A new directory in $FARPOOL_BUILD or build/; and its end, with all that is in it. */
void bench_dir_make(char dir[BENCH_PATH_MAX], const char *name);
void bench_dir_remove(const char *dir);

/* Runs one job on a file in dir, O_DIRECT, io_uring, one request at a time, and removes the file. options: fio's others.
 * Its part of fio's JSON, the caller's; NULL, having said so, where there is no fio or it fails. */
json_t *bench_fio(const char *dir, const char *options);

#endif
