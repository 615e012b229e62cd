/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/lib/disk.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/lib/report.h"
#include "common/error.h"

void bench_dir_make(char dir[BENCH_PATH_MAX], const char *name)
{
    const char *build = getenv("FARPOOL_BUILD");
    snprintf(dir, BENCH_PATH_MAX, "%s/%s-XXXXXX", build ? build : "build", name);
    bench_check(mkdtemp(dir) ? 0 : fp_error_sys("%s", dir), "a directory");
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *ftw)
{
    (void)status, (void)type, (void)ftw;
    return remove(path);
}

void bench_dir_remove(const char *dir)
{
    enum { FDS = 8 };
    bool gone = !nftw(dir, remove_one, FDS, FTW_DEPTH | FTW_PHYS);
    bench_check(gone ? 0 : fp_error_sys("removing %s", dir), "a directory");
}

json_t *bench_fio(const char *dir, const char *options)
{
    char command[1024];
    snprintf(command, sizeof command,
             "fio --output-format=json --name=bench --filename=%s/fio --direct=1 --unlink=1 "
             "--ioengine=io_uring --iodepth=1 %s 2>/dev/null",
             dir, options);
    FILE *out = popen(command, "r");
    bench_check(out ? 0 : fp_error_sys("fio"), "fio");
    int c;
    while ((c = fgetc(out)) != EOF && c != '{') /* notes may stand before the object */
        ;
    json_t *all = ungetc(c, out) == '{' ? json_loadf(out, 0, NULL) : NULL;
    json_t *job = json_incref(json_array_get(json_object_get(all, "jobs"), 0));
    json_decref(all);
    if (pclose(out) || !job) {
        bench_progress("no figures from fio (package fio)");
        json_decref(job);
        return NULL;
    }
    return job;
}
