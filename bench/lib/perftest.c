/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/lib/perftest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/lib/report.h"

/* Server and client of one tool; the client tries until the server listens. The line of results begins with
 * the message size; its columns are separated by blanks. */
static bool measure(const char *tool, const char *arguments, const char *host, int column,
                    double *value)
{
    char command[1024], line[1024];
    snprintf(
        command, sizeof command,
        "command -v %s >/dev/null || exit 0; t='%s -R -F -s 4096 %s'; $t >/dev/null 2>&1 & s=$!; "
        "for i in $(seq 100); do $t %s 2>/dev/null && break; kill -0 $s || break; sleep 0.1; "
        "done; kill $s 2>/dev/null; wait",
        tool, tool, arguments, host);
    FILE *out = popen(command, "r");
    if (!out)
        return false;
    bool found = false;
    while (fgets(line, sizeof line, out)) {
        if (strtol(line, NULL, 10) != 4096)
            continue;
        char *save, *word = strtok_r(line, " \t\n", &save);
        for (int i = 0; word && i < column; i++)
            word = strtok_r(NULL, " \t\n", &save);
        if (word) {
            *value = strtod(word, NULL);
            found = true;
        }
    }
    return pclose(out) == 0 && found;
}

void bench_perftest(const char *uri)
{
    char host[128];
    double value;
    if (sscanf(uri, "verbs://%127[^:]", host) != 1)
        return;
    bench_progress("ib_read_lat and ib_read_bw");
    if (measure("ib_read_lat", "-n 1000", host, 4, &value))
        bench_add("us", value, "verbs.ib_read_lat_p50");
    else
        bench_progress("no figures from ib_read_lat (package perftest)");
    if (measure("ib_read_bw", "-n 2000 -t 32 -o 32", host, 3, &value))
        bench_add("MB/s", value * 1.048576, "verbs.ib_read_bw_qd32"); /* it counts in MiB */
    else
        bench_progress("no figures from ib_read_bw (package perftest)");
}
