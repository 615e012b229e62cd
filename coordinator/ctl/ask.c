/* SPDX-License-Identifier: Apache-2.0 */
/* The program: asks, and says what came of it. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/clock.h"
#include "common/error.h"
#include "coordinator/ctl/ctl.h"
#include "coordinator/ctl/table.h"

/* ---- asking -------------------------------------------------------------------------------------- */

static bool only_reads(const json_t *call)
{
    static const char *const methods[] = {"status", "node.list", "partition.list", "route",
                                          "events"};
    const char *method = fp_json_text(call, "method", "");
    for (unsigned i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        if (!strcmp(method, methods[i]))
            return true;
    }
    return false;
}

int fp_ctl_ask(fp_ctl *ctl, json_t *call, unsigned timeout_ms, json_t **answer)
{
    *answer = NULL;
    int rc = call ? 0 : fp_error(FARPOOL_E_NOMEM, "no memory for a request");
    if (!rc && !ctl->way)
        rc = ctl->io->open(ctl->coordinators, ctl->key_file, &ctl->way);
    bool again = !rc && only_reads(call);
    /* One that is stopped, or whose machine is gone, says nothing: a third of the patience for each. */
    unsigned patience = again ? timeout_ms - ctl->timeout_ms / 3 * 2 : timeout_ms;
    uint64_t end = fp_now_ns() + timeout_ms * UINT64_C(1000000);
    while (!rc) {
        uint64_t begin = fp_now_ns();
        unsigned left = begin < end ? (unsigned)((end - begin) / 1000000) + 1 : 1;
        if (left > patience)
            left = patience;
        rc = ctl->io->ask(ctl->way, json_incref(call), left, answer);
        uint64_t now = fp_now_ns();
        bool late = now - begin >= left * UINT64_C(1000000);
        if (!again || !(rc == FARPOOL_E_UNKNOWN || (rc == FARPOOL_E_NODE && late)))
            break;
        /* Who was asked is gone. Nothing was to be changed, so the next one may be asked. */
        if (now < end)
            rc = 0;
        else if (rc == FARPOOL_E_UNKNOWN)
            rc = fp_error(FARPOOL_E_TIMEOUT, "no coordinator answered within %u ms", timeout_ms);
    }
    json_decref(call);
    return rc;
}

bool fp_ctl_passes(int rc)
{
    return rc == FARPOOL_E_NODE || rc == FARPOOL_E_TIMEOUT || rc == FARPOOL_E_UNKNOWN ||
           rc == FARPOOL_E_CLOSED || rc == FARPOOL_E_BUSY;
}

json_t *fp_ctl_call(fp_ctl *ctl)
{
    const fp_ctl_command *command = ctl->command;
    const char *argument = ctl->argument;
    json_t *call = json_deep_copy(ctl->call), *value = NULL;
    if (!call || json_object_set_new(call, "method", json_string(command->method)))
        goto err;
    if (!strcmp(command->method, "partition.read_only") &&
        json_object_set_new(call, "on",
                            json_boolean(!strcmp(command->name, "partition read-only"))))
        goto err;
    if (!command->member)
        return call;
    /* A partition may be named by its number; names do not consist of digits only. */
    bool number = !strcmp(command->member, "partition") && strlen(argument) < 19 &&
                  strspn(argument, "0123456789") == strlen(argument);
    value = number ? json_integer(strtoll(argument, NULL, 10)) : json_string(argument);
    if (!json_object_set_new(call, command->member, value))
        return call;
err:
    json_decref(call);
    return NULL;
}

/* ---- saying -------------------------------------------------------------------------------------- */

static int status_of(int rc)
{
    switch (rc) {
    case FARPOOL_E_INVAL:
    case FARPOOL_E_TOO_BIG:
        return FP_CTL_USAGE;
    case FARPOOL_E_NODE:
    case FARPOOL_E_TIMEOUT:
    case FARPOOL_E_CLOSED:
        return FP_CTL_NOBODY;
    case FARPOOL_E_NOTFOUND:
        return FP_CTL_NOT_FOUND;
    case FARPOOL_E_BUSY:
    case FARPOOL_E_EXISTS:
    case FARPOOL_E_NOSPACE:
        return FP_CTL_STATE;
    case FARPOOL_E_UNKNOWN:
        return FP_CTL_UNKNOWN;
    default:
        return FP_CTL_FAILED;
    }
}

int fp_ctl_failed(fp_ctl *ctl, int rc)
{
    fputs("farpoolctl: ", ctl->io->err);
    fp_print_text(ctl->io->err, farpool_errmsg()); /* some of it may be a coordinator's words */
    fprintf(ctl->io->err, " (%s)\n", fp_error_name(rc));
    return status_of(rc);
}

int fp_ctl_nonsense(fp_ctl *ctl)
{
    fprintf(ctl->io->err,
            "farpoolctl: the answer to %s does not have what it should: is that a coordinator of "
            "this version?\n",
            ctl->command->method);
    return FP_CTL_FAILED;
}

void fp_ctl_json(fp_ctl *ctl, const json_t *answer, bool one_line)
{
    json_dumpf(answer, ctl->io->out, one_line ? JSON_COMPACT : JSON_INDENT(2));
    putc('\n', ctl->io->out);
}

/* ---- commands ------------------------------------------------------------------------------------ */

int fp_ctl_show(fp_ctl *ctl)
{
    json_t *answer;
    const char *method = ctl->command->method;
    int rc = fp_ctl_ask(ctl, fp_ctl_call(ctl), ctl->timeout_ms, &answer);
    if (rc)
        return fp_ctl_failed(ctl, rc);
    if (ctl->json)
        fp_ctl_json(ctl, answer, false);
    else if (!strcmp(method, "status"))
        fp_show_status(ctl->io->out, answer, false);
    else if (!strcmp(method, "node.list"))
        fp_show_nodes(ctl->io->out, json_object_get(answer, "nodes"));
    else if (!strcmp(method, "partition.list"))
        fp_show_partitions(ctl->io->out, json_object_get(answer, "partitions"));
    else
        fp_show_route(ctl->io->out, answer);
    json_decref(answer);
    return FP_CTL_DONE;
}

/* The sentence with the command's argument in the place of %s. */
static void say(FILE *out, const char *sentence, const char *argument)
{
    const char *at = strstr(sentence, "%s");
    fprintf(out, "%.*s%s%s", (int)(at - sentence), sentence, argument, at + 2);
}

/* What cannot be taken back. An exit status, or -1: go on. */
static int confirm(fp_ctl *ctl)
{
    const fp_ctl_io *io = ctl->io;
    char line[100] = "";
    bool failover = !strcmp(ctl->command->method, "failover");
    if (!ctl->command->danger || ctl->yes ||
        (failover && !json_is_true(json_object_get(ctl->call, "from_storage"))))
        return -1;
    fputs(io->in_terminal ? "" : "farpoolctl: ", io->err);
    say(io->err, ctl->command->danger, ctl->argument);
    if (!io->in_terminal) {
        fputs(" That wants --yes where nobody can be asked.\n", io->err);
        return FP_CTL_USAGE;
    }
    fputs(" Type yes to go on: ", io->err);
    fflush(io->err);
    if (fgets(line, sizeof line, io->in) && !strcasecmp(line, "yes\n"))
        return -1;
    fputs("Nothing was done.\n", io->err);
    return FP_CTL_FAILED;
}

int fp_ctl_change(fp_ctl *ctl)
{
    json_t *answer;
    int status = confirm(ctl);
    if (status >= 0)
        return status;
    int rc = fp_ctl_ask(ctl, fp_ctl_call(ctl), ctl->timeout_ms, &answer);
    if (rc)
        return fp_ctl_failed(ctl, rc);
    status = ctl->wait ? fp_ctl_wait(ctl, answer) : FP_CTL_DONE;
    json_int_t id = fp_json_number(answer, "id"), epoch = fp_json_number(answer, "epoch");
    if (status == FP_CTL_DONE && ctl->json) {
        fp_ctl_json(ctl, answer, false);
    } else if (status == FP_CTL_DONE) {
        say(ctl->io->out, ctl->command->done, ctl->argument);
        if (id)
            fprintf(ctl->io->out, " Its number is %" JSON_INTEGER_FORMAT ".", id);
        if (epoch)
            fprintf(ctl->io->out, " Its epoch is %" JSON_INTEGER_FORMAT ".", epoch);
        fputs(ctl->wait ? " It has taken effect.\n" : "\n", ctl->io->out);
    }
    json_decref(answer);
    return status;
}

int fp_ctl_doctor(fp_ctl *ctl)
{
    json_t *report;
    int rc = fp_doctor_run(&ctl->doctor, &report);
    if (rc)
        return fp_ctl_failed(ctl, rc);
    if (ctl->json)
        fp_ctl_json(ctl, report, false);
    else
        fp_doctor_print(report, ctl->io->out);
    bool good = !fp_json_number(report, "fail");
    json_decref(report);
    return good ? FP_CTL_DONE : FP_CTL_FAILED;
}

int fp_ctl_main(int argc, char **argv, const fp_ctl_io *io)
{
    fp_ctl ctl = {.io = io, .call = json_object(), .doctor.numa_node = -1};
    int status = FP_CTL_FAILED;
    if (ctl.call) {
        status = fp_ctl_parse(&ctl, argc, argv);
        if (status < 0)
            status = ctl.command->run(&ctl);
    }
    if (ctl.way)
        io->close(ctl.way);
    json_decref(ctl.call);
    free(ctl.config_coordinators);
    free(ctl.config_key_file);
    if ((fflush(io->out) || ferror(io->out)) && status == FP_CTL_DONE) {
        fprintf(io->err, "farpoolctl: writing to standard output failed\n");
        status = FP_CTL_FAILED;
    }
    return status;
}
