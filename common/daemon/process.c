/* SPDX-License-Identifier: Apache-2.0 */
#include "common/daemon/process.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "common/error.h"

/* ---- the process ----------------------------------------------------------------------------- */

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    return clock_gettime(clock, &t) ? 0 : (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint64_t count = 0;
    if (!dir)
        return 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count > 3 ? count - 3 : 0; /* ".", ".." and the directory itself */
}

/* /proc/self/stat, behind the name in brackets: the 22nd field is when it was started, in ticks since the machine was,
 * the 24th the pages that it has in memory. */
static bool read_stat(uint64_t *started_ticks, uint64_t *pages)
{
    char text[1024];
    FILE *file = fopen("/proc/self/stat", "re");
    size_t len = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file)
        fclose(file);
    text[len] = 0;
    const char *rest = strrchr(text, ')');
    return rest && sscanf(rest,
                          ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
                          "%*d %*d %" SCNu64 " %*u %" SCNu64,
                          started_ticks, pages) == 2;
}

void fp_process_metrics(fp_metrics *m)
{
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", FARPOOL_VERSION_MAJOR, FARPOOL_VERSION_MINOR,
             FARPOOL_VERSION_PATCH);
    m->prefix = "";
    fp_metrics_begin(m, FP_METRIC_GAUGE, "farpool_build_info", "Always 1; its label says more.");
    fp_metrics_sample(m, "version", version, 1);
    fp_metrics_counter_ns(m, "process_cpu_seconds_total", "CPU time of the process.",
                          clock_ns(CLOCK_PROCESS_CPUTIME_ID));
    uint64_t ticks, pages;
    if (read_stat(&ticks, &pages)) {
        uint64_t booted = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_BOOTTIME);
        uint64_t tick_ns = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
        fp_metrics_gauge_ns(m, "process_start_time_seconds", "When it was started, since 1970.",
                            booted + ticks * tick_ns);
        fp_metrics_gauge(m, "process_resident_memory_bytes",
                         "Its memory here, without reserved huge pages.",
                         pages * (uint64_t)sysconf(_SC_PAGESIZE));
    }
    fp_metrics_gauge(m, "process_open_fds", "Its open descriptors.", count_fds());
    struct rlimit limit;
    if (!getrlimit(RLIMIT_NOFILE, &limit))
        fp_metrics_gauge(m, "process_max_fds", "How many it may have.", limit.rlim_cur);
}

/* ---- control messages ------------------------------------------------------------------------ */

static const char *const request_names[FP_MSG_LAST + 1] = {
    [FP_MSG_HELLO] = "HELLO",
    [FP_MSG_GRANT] = "GRANT",
    [FP_MSG_ATTACH] = "ATTACH",
    [FP_MSG_RELEASE] = "RELEASE",
    [FP_MSG_USAGE] = "USAGE",
    [FP_MSG_WAL_OPEN] = "WAL_OPEN",
    [FP_MSG_WAL_GET] = "WAL_GET",
    [FP_MSG_WAL_APPEND] = "WAL_APPEND",
    [FP_MSG_PAGE_GET] = "PAGE_GET",
    [FP_MSG_LOG_GET] = "LOG_GET",
    [FP_MSG_WAL_FENCE] = "WAL_FENCE",
    [FP_MSG_WAL_JOIN] = "WAL_JOIN",
    [FP_MSG_MANIFEST_GET] = "MANIFEST_GET",
    [FP_MSG_FILE_GET] = "FILE_GET",
    [FP_MSG_PROOF] = "PROOF",
    [FP_MSG_CALL] = "CALL",
};

void fp_server_metrics(const fp_server *server, fp_metrics *m)
{
    fp_metrics_gauge(m, "connections", "Connections of clients.", server->client_count);
    fp_metrics_counter(m, "connections_accepted_total", "Connections that were ever made.",
                       server->accepted);
    fp_metrics_counter(m, "data_bytes_total",
                       "Bytes that the node's processor moved for one-sided transfers: tcp.",
                       fp_server_data_bytes(server));
    fp_metrics_begin(m, FP_METRIC_COUNTER, "requests_total",
                     "Control messages received, by type (docs/protocol.md).");
    for (unsigned type = 0; type <= FP_MSG_LAST; type++) {
        if (request_names[type])
            fp_metrics_sample(m, "type", request_names[type], server->requests[type]);
        else if (server->requests[type]) /* a stranger's, or one that has no name here yet */
            fp_metrics_sample_of(m, "type", type, server->requests[type]);
    }
    fp_metrics_begin(m, FP_METRIC_COUNTER, "refused_total",
                     "Control messages answered with an error, by its code.");
    for (int code = 1; code < FP_SERVER_CODES; code++) {
        if (server->refused[code])
            fp_metrics_sample(m, "code", fp_error_name(-code), server->refused[code]);
    }
}
