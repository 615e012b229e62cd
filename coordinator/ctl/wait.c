/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting until a change has taken effect: the status is looked at again and again. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/error.h"
#include "coordinator/ctl/ctl.h"
#include "coordinator/ctl/table.h"

enum { LOOK_MS = 200, PATIENCE_MS = 60000 /* with coordinators that do not answer */ };

/* The member of the list whose name is that, or whose id is that number. A name may be that of a partition that is being
 * deleted, too. */
static const json_t *find(const json_t *list, const char *name, json_int_t id)
{
    size_t i;
    json_t *item, *deleted = NULL;
    json_array_foreach(list, i, item)
    {
        if (id ? fp_json_number(item, "id") != id
               : strcmp(fp_json_text(item, "name", ""), name) != 0)
            continue;
        if (strcmp(fp_json_text(item, "state", ""), "deleted") != 0)
            return item;
        deleted = item;
    }
    return deleted;
}

static bool names(const json_t *list, const char *name)
{
    size_t i;
    json_t *item;
    json_array_foreach(list, i, item)
    {
        if (json_is_string(item) && !strcmp(json_string_value(item), name))
            return true;
    }
    return false;
}

/* How many partitions the node has a part in. */
static unsigned duties_of(const json_t *partitions, const char *name)
{
    size_t i;
    json_t *partition;
    unsigned count = 0;
    json_array_foreach(partitions, i, partition)
    {
        count += !strcmp(fp_json_text(partition, "owner", ""), name) ||
                 names(json_object_get(partition, "memnodes"), name) ||
                 names(json_object_get(partition, "storagenodes"), name);
    }
    return count;
}

/* 1: it has taken effect; 0: not yet, and progress says how far it is; or a negative code. */
static int drained(fp_ctl *ctl, const json_t *status, char *progress, size_t size)
{
    const json_t *node = find(json_object_get(status, "nodes"), ctl->argument, 0);
    const char *state = fp_json_text(node, "state", "");
    if (!node || !strcmp(state, "member"))
        return fp_error(FARPOOL_E_BUSY, "node %s is %s", ctl->argument,
                        node ? "not being drained any more" : "gone");
    snprintf(progress, size, "node %s has a part in %u partitions", ctl->argument,
             duties_of(json_object_get(status, "partitions"), ctl->argument));
    return !strcmp(state, "drained");
}

static bool is_deleted(const json_t *partition)
{
    return !partition || (!strcmp(fp_json_text(partition, "state", ""), "deleted") &&
                          strcmp(fp_json_text(partition, "phase", ""), "deleting") != 0);
}

/* The argument is its number or its name. */
static const json_t *partition_of(fp_ctl *ctl, const json_t *answer, const json_t *status)
{
    json_int_t id = fp_json_number(answer, "id");
    if (!id && strspn(ctl->argument, "0123456789") == strlen(ctl->argument))
        id = strtoll(ctl->argument, NULL, 10);
    return find(json_object_get(status, "partitions"), ctl->argument, id);
}

static int settled(fp_ctl *ctl, const json_t *answer, const json_t *status, char *progress,
                   size_t size)
{
    const json_t *partition = partition_of(ctl, answer, status);
    const char *phase = fp_json_text(partition, "phase", "-");
    const char *owner = fp_json_text(partition, "owner", "-");
    const char *to = fp_json_text(ctl->call, "to", "");
    json_int_t epoch = fp_json_number(partition, "epoch");
    if (!partition || !strcmp(fp_json_text(partition, "state", ""), "deleted"))
        return fp_error(FARPOOL_E_NOTFOUND, "partition %s is deleted", ctl->argument);
    snprintf(progress, size, "partition %s: %s, epoch %" JSON_INTEGER_FORMAT ", owner %s",
             ctl->argument, phase, epoch, owner);
    bool open = !strcmp(phase, "open") && epoch >= fp_json_number(answer, "epoch");
    if (open && to[0] && strcmp(owner, to) != 0)
        return fp_error(FARPOOL_E_BUSY,
                        "partition %s is open at %s under epoch %" JSON_INTEGER_FORMAT
                        ", for %s did not open it: 'farpoolctl events' says why",
                        ctl->argument, owner, epoch, to);
    return open;
}

static int look(fp_ctl *ctl, const json_t *answer, const json_t *status, char *progress,
                size_t size)
{
    const char *method = ctl->command->method;
    if (!strcmp(method, "node.drain"))
        return drained(ctl, status, progress, size);
    if (strcmp(method, "partition.delete") != 0)
        return settled(ctl, answer, status, progress, size);
    snprintf(progress, size, "partition %s is not gone from all nodes", ctl->argument);
    return is_deleted(partition_of(ctl, answer, status));
}

static bool in_name(char c) { return c && (isalnum((unsigned char)c) || strchr("._-", c)); }

static bool has_word(const char *text, const char *word)
{
    size_t len = strlen(word);
    for (const char *at = text; (at = strstr(at, word)); at++) {
        if ((at == text || !in_name(at[-1])) && !in_name(at[len]))
            return true;
    }
    return false;
}

/* What stands in the way: the first sentence about a partition that names what is waited for. NULL: there is none. */
static const char *obstacle(fp_ctl *ctl, const json_t *answer, const json_t *status)
{
    size_t i;
    json_t *sentence;
    const char *name = ctl->argument;
    if (strncmp(ctl->command->method, "node.", 5) != 0)
        name = fp_json_text(partition_of(ctl, answer, status), "name", name);
    json_array_foreach(json_object_get(status, "stalled"), i, sentence)
    {
        const char *text = json_string_value(sentence);
        if (text && !strncmp(text, "partition ", 10) && has_word(text + 10, name))
            return text;
    }
    return NULL;
}

/* Whenever it is something new. */
static void tell(fp_ctl *ctl, const char *progress, const char *why)
{
    char line[sizeof ctl->progress];
    snprintf(line, sizeof line, "%.250s%s%.250s", progress, why ? "; stalled: " : "",
             why ? why : "");
    if (!strcmp(line, ctl->progress))
        return;
    strcpy(ctl->progress, line);
    fputs("farpoolctl: ", ctl->io->err);
    fp_print_text(ctl->io->err, line);
    putc('\n', ctl->io->err);
    fflush(ctl->io->err);
}

/* As look, after asking. */
static int ask(fp_ctl *ctl, const json_t *answer, uint64_t *heard_ns)
{
    char progress[300] = "";
    json_t *status;
    int rc = fp_ctl_ask(ctl, json_pack("{s:s}", "method", "status"), ctl->timeout_ms, &status);
    if (!rc) {
        *heard_ns = fp_now_ns();
        rc = look(ctl, answer, status, progress, sizeof progress);
        if (!rc)
            tell(ctl, progress, obstacle(ctl, answer, status));
        json_decref(status);
        return rc;
    }
    if (!fp_ctl_passes(rc))
        return rc;
    if (fp_now_ns() - *heard_ns > PATIENCE_MS * UINT64_C(1000000))
        return fp_error(FARPOOL_E_UNKNOWN,
                        "it was decided, but nobody says whether it has taken effect: %s",
                        farpool_errmsg());
    tell(ctl, farpool_errmsg(), NULL);
    return 0;
}

static const struct timespec pause_between = {.tv_nsec = LOOK_MS * 1000000};

int fp_ctl_wait(fp_ctl *ctl, const json_t *answer)
{
    uint64_t heard_ns = fp_now_ns();
    for (;;) {
        int rc = ask(ctl, answer, &heard_ns);
        if (rc < 0)
            return fp_ctl_failed(ctl, rc);
        if (rc)
            return FP_CTL_DONE;
        nanosleep(&pause_between, NULL);
    }
}

/* A step that nobody said anything about may have been decided: the next one follows from what is then. */
int fp_ctl_balance(fp_ctl *ctl)
{
    uint64_t heard_ns = fp_now_ns();
    for (bool more = true; more;) {
        json_t *answer;
        int rc = fp_ctl_ask(ctl, fp_ctl_call(ctl), ctl->timeout_ms, &answer);
        if (!rc || rc == FARPOOL_E_BUSY)
            heard_ns = fp_now_ns();
        bool patient = fp_now_ns() - heard_ns < PATIENCE_MS * UINT64_C(1000000);
        if (rc && !(ctl->wait && patient && fp_ctl_passes(rc)))
            return fp_ctl_failed(ctl, rc);
        if (rc) {
            tell(ctl, farpool_errmsg(), NULL);
            nanosleep(&pause_between, NULL);
            continue;
        }
        const char *step = json_string_value(json_object_get(answer, "step"));
        more = ctl->wait && step && step[0];
        if (ctl->json)
            fp_ctl_json(ctl, answer, true);
        else if (step)
            fp_print_text(ctl->io->out, step[0] ? step : "There is nothing to move.");
        if (step && !ctl->json)
            putc('\n', ctl->io->out);
        fflush(ctl->io->out);
        json_decref(answer);
        if (!step)
            return fp_ctl_nonsense(ctl);
    }
    return FP_CTL_DONE;
}
