/* SPDX-License-Identifier: Apache-2.0 */
/* Answers for people. They come from elsewhere: a member that is missing or is something else is shown as '-'. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "common/config.h"
#include "coordinator/ctl/ctl.h"
#include "coordinator/ctl/table.h"

const char *fp_json_text(const json_t *object, const char *key, const char *otherwise)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text && text[0] ? text : otherwise;
}

json_int_t fp_json_number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static const char *size_text(const json_t *object, const char *key, char buffer[32])
{
    json_int_t bytes = fp_json_number(object, key);
    return fp_config_size_text(bytes > 0 ? (uint64_t)bytes : 0, buffer, 32);
}

/* "a, b, c" */
static const char *list_text(const json_t *list, char *buffer, size_t size)
{
    size_t i, at = 0;
    json_t *item;
    buffer[0] = 0;
    json_array_foreach(list, i, item)
    {
        const char *name = json_string_value(item);
        int n = snprintf(buffer + at, size - at, "%s%s", at ? ", " : "", name ? name : "?");
        if (n < 0 || (size_t)n >= size - at)
            break;
        at += (size_t)n;
    }
    return buffer;
}

static void text_cell(fp_table *table, const json_t *object, const char *key)
{
    fp_table_cell(table, "%s", fp_json_text(object, key, ""));
}

static void number_cell(fp_table *table, const json_t *object, const char *key)
{
    fp_table_cell(table, "%" JSON_INTEGER_FORMAT, fp_json_number(object, key));
}

/* ---- nodes --------------------------------------------------------------------------------------- */

/* Whether it is up is known to the leader only; a record alone does not tell. One that is away is not lost yet. */
static const char *node_state(const json_t *node, char buffer[64])
{
    const json_t *up = json_object_get(node, "up");
    const char *state = fp_json_text(node, "state", "");
    bool member = !strcmp(state, "member");
    bool lost = json_is_true(json_object_get(node, "lost"));
    const char *health = json_is_true(up) ? "up" : lost ? "lost" : json_is_false(up) ? "away" : "";
    snprintf(buffer, 64, "%s%s%s", health, *health && !member ? ", " : "",
             *health && member ? "" : state);
    return buffer;
}

/* What it is used for, as far as it has told. */
static void node_use(fp_table *table, const json_t *node)
{
    char has[32], of[32];
    const json_t *actual = json_object_get(node, "actual");
    const char *role = fp_json_text(node, "role", "");
    json_int_t partitions = json_integer_value(json_object_get(actual, "partitions"));
    if (!actual)
        fp_table_cell(table, "-");
    else if (!strcmp(role, "memory"))
        fp_table_cell(table, "%s of %s", size_text(actual, "granted", has),
                      size_text(node, "bytes", of));
    else if (!strcmp(role, "storage"))
        fp_table_cell(table, "%" JSON_INTEGER_FORMAT " partitions, %s of log", partitions,
                      size_text(actual, "log", has));
    else
        fp_table_cell(table, "%" JSON_INTEGER_FORMAT " partitions", partitions);
}

void fp_show_nodes(FILE *out, const json_t *nodes)
{
    size_t i;
    json_t *node;
    char state[64];
    fp_table *table = fp_table_new("NAME,ROLE,STATE,ZONE,RACK,HOST,USE,>LAG,STORAGE,ADDRESS");
    json_array_foreach(nodes, i, node)
    {
        const json_t *uris = json_object_get(node, "uris");
        const char *uri = json_string_value(json_array_get(uris, 0));
        text_cell(table, node, "name");
        text_cell(table, node, "role");
        fp_table_cell(table, "%s", node_state(node, state));
        text_cell(table, node, "zone");
        text_cell(table, node, "rack");
        text_cell(table, node, "host");
        node_use(table, node);
        fp_table_size(table, json_object_get(json_object_get(node, "actual"), "lag"));
        text_cell(table, node, "storage");
        fp_table_cell(table, "%s", uri ? uri : fp_json_text(node, "address", ""));
    }
    fp_table_end(table, out);
}

/* ---- partitions ---------------------------------------------------------------------------------- */

/* ID to OWNER */
static void partition_cells(fp_table *table, const json_t *partition)
{
    number_cell(table, partition, "id");
    text_cell(table, partition, "name");
    text_cell(table, partition, "state");
    text_cell(table, partition, "phase");
    number_cell(table, partition, "epoch");
    text_cell(table, partition, "owner");
}

void fp_show_partitions(FILE *out, const json_t *partitions)
{
    size_t i;
    json_t *partition;
    char buffer[500];
    fp_table *table = fp_table_new(
        ">ID,NAME,STATE,PHASE,>EPOCH,OWNER,MEMORY NODES,STORAGE NODES,>SLAB,>LOG RING,QUORUM");
    json_array_foreach(partitions, i, partition)
    {
        partition_cells(table, partition);
        fp_table_cell(table, "%s",
                      list_text(json_object_get(partition, "memnodes"), buffer, sizeof buffer));
        fp_table_cell(table, "%s",
                      list_text(json_object_get(partition, "storagenodes"), buffer, sizeof buffer));
        fp_table_size(table, json_object_get(partition, "slab_bytes"));
        fp_table_size(table, json_object_get(partition, "log_ring_bytes"));
        fp_table_cell(table, "%" JSON_INTEGER_FORMAT " of %" JSON_INTEGER_FORMAT,
                      fp_json_number(partition, "log_quorum"),
                      fp_json_number(partition, "log_copies"));
    }
    fp_table_end(table, out);
}

void fp_show_route(FILE *out, const json_t *route)
{
    fp_table *table = fp_table_new(">ID,NAME,STATE,PHASE,>EPOCH,OWNER,ADDRESS");
    partition_cells(table, route);
    text_cell(table, route, "address");
    fp_table_end(table, out);
}

/* ---- all of it ----------------------------------------------------------------------------------- */

static void show_stalled(FILE *out, const json_t *stalled)
{
    size_t i;
    json_t *sentence;
    json_array_foreach(stalled, i, sentence)
    {
        fputs("stalled: ", out);
        fp_print_text(out, json_is_string(sentence) ? json_string_value(sentence) : "-");
        putc('\n', out);
    }
    if (!json_array_size(stalled))
        fputs("Nothing is stalled.\n", out);
}

void fp_show_status(FILE *out, const json_t *status, bool stalled_first)
{
    const json_t *leader = json_object_get(status, "leader");
    const char *uri = json_string_value(json_array_get(json_object_get(leader, "uris"), 0));
    char head[500];
    snprintf(head, sizeof head, "cluster %s, led by %s at %s in term %" JSON_INTEGER_FORMAT,
             fp_json_text(status, "cluster", "-"), fp_json_text(leader, "name", "-"),
             uri ? uri : "-", fp_json_number(status, "term"));
    fp_print_text(out, head);
    fputs("\n\n", out);
    if (stalled_first) {
        show_stalled(out, json_object_get(status, "stalled"));
        putc('\n', out);
    }
    fp_show_nodes(out, json_object_get(status, "nodes"));
    putc('\n', out);
    fp_show_partitions(out, json_object_get(status, "partitions"));
    if (!stalled_first) {
        putc('\n', out);
        show_stalled(out, json_object_get(status, "stalled"));
    }
}

void fp_show_event(FILE *out, const json_t *event)
{
    char when[40] = "-", line[1200], partition[40] = "";
    json_int_t ms = fp_json_number(event, "time_ms"), id = fp_json_number(event, "partition");
    time_t seconds = (time_t)(ms / 1000);
    struct tm local;
    if (localtime_r(&seconds, &local))
        strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S", &local);
    if (id)
        snprintf(partition, sizeof partition, "partition %" JSON_INTEGER_FORMAT, id);
    snprintf(line, sizeof line, "%6" JSON_INTEGER_FORMAT "  %s.%03d  %-16s %-14s %-12s %s",
             fp_json_number(event, "seq"), when, (int)(ms % 1000), fp_json_text(event, "kind", "-"),
             partition, fp_json_text(event, "node", ""), fp_json_text(event, "text", ""));
    fp_print_text(out, line);
    putc('\n', out);
}
