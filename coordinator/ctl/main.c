/* SPDX-License-Identifier: Apache-2.0 */
/* farpoolctl: the way to the coordinators is an agent that asks (common/cluster/agent.h). */
#include <stdlib.h>
#include <unistd.h>

#include "common/auth.h"
#include "common/cluster/agent.h"
#include "common/error.h"
#include "coordinator/ctl/ctl.h"

typedef struct ctl_way {
    fp_auth *auth; /* NULL: none */
    fp_agent *agent;
} ctl_way;

static void way_close(void *opened)
{
    ctl_way *way = opened;
    if (!way)
        return;
    fp_agent_close(way->agent);
    fp_auth_close(way->auth);
    free(way);
}

static int way_open(const char *coordinators, const char *key_file, void **opened)
{
    ctl_way *way = calloc(1, sizeof *way);
    fp_agent_config config = {.coordinators = coordinators, .name = "admin"};
    if (!way)
        return fp_error(FARPOOL_E_NOMEM, "no memory for the way to the coordinators");
    int rc = key_file ? fp_auth_open(key_file, config.name, &way->auth) : 0;
    config.auth = way->auth;
    if (!rc)
        rc = fp_agent_open(&config, &way->agent);
    if (rc)
        way_close(way);
    *opened = rc ? NULL : way;
    return rc;
}

static int way_ask(void *way, json_t *call, unsigned timeout_ms, json_t **answer)
{
    return fp_agent_call(((ctl_way *)way)->agent, call, timeout_ms, answer);
}

int main(int argc, char **argv)
{
    fp_ctl_io io = {
        .in = stdin,
        .out = stdout,
        .err = stderr,
        .in_terminal = isatty(STDIN_FILENO),
        .out_terminal = isatty(STDOUT_FILENO),
        .open = way_open,
        .ask = way_ask,
        .close = way_close,
    };
    return fp_ctl_main(argc, argv, &io);
}
