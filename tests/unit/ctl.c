/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what farpoolctl asks for, prints, and exits with, at coordinators whose answers are written here. */
#include "coordinator/ctl/ctl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/error.h"
#include "coordinator/ctl/table.h"

enum { ANSWERS_MAX = 8 };

/* What is asked next is answered so: JSON, or a code. */
static struct {
    const char *json;
    int code;
} answers[ANSWERS_MAX];
static unsigned answer_count, asked;
static json_t *calls[ANSWERS_MAX];
static unsigned patience[ANSWERS_MAX];
static const char *opened;
static char key[64]; /* the file that was named, or "" */

static char *out, *err;

static int script_open(const char *coordinators, const char *key_file, void **way)
{
    snprintf(key, sizeof key, "%s", key_file ? key_file : "");
    opened = coordinators;
    *way = &asked;
    return 0;
}

static int script_ask(void *way, json_t *call, unsigned timeout_ms, json_t **answer)
{
    assert_ptr_equal(way, &asked);
    assert_true(timeout_ms > 0);
    assert_true(asked < answer_count);
    patience[asked] = timeout_ms;
    calls[asked] = json_deep_copy(call);
    json_decref(call);
    const char *json = answers[asked].json;
    int code = answers[asked++].code;
    if (code)
        return fp_error(code, "a sentence\033[2J");
    *answer = json_loads(json, 0, NULL);
    assert_non_null(*answer);
    return 0;
}

static void script_close(void *way) { (void)way; }

static void forget(void)
{
    for (unsigned i = 0; i < ANSWERS_MAX; i++)
        json_decref(calls[i]);
    memset(calls, 0, sizeof calls);
    memset(answers, 0, sizeof answers);
    answer_count = asked = 0;
    free(out);
    free(err);
    out = err = NULL;
    opened = NULL;
}

static void answer(const char *json) { answers[answer_count++].json = json; }
static void refuse(int code) { answers[answer_count++].code = code; }

/* Runs farpoolctl with these words, input being what somebody types at a terminal, or NULL. */
static int run(const char *line, const char *input)
{
    char words[500], *argv[32] = {"farpoolctl"};
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    size_t out_len, err_len;
    free(out);
    free(err);
    fp_ctl_io io = {.in = input ? fmemopen((char *)(uintptr_t)input, strlen(input), "r") : NULL,
                    .out = open_memstream(&out, &out_len),
                    .err = open_memstream(&err, &err_len),
                    .in_terminal = input,
                    .open = script_open,
                    .ask = script_ask,
                    .close = script_close};
    int status = fp_ctl_main(argc, argv, &io);
    fclose(io.out);
    fclose(io.err);
    if (input)
        fclose(io.in);
    return status;
}

#define HAS(text, what)                                                                            \
    do {                                                                                           \
        if (!strstr(text, what))                                                                   \
            fail_msg("'%s' is not in:\n%s", what, text);                                           \
    } while (0)

/* The i-th call is this object. */
static void called(unsigned i, const char *json)
{
    json_t *wanted = json_loads(json, 0, NULL);
    assert_non_null(wanted);
    if (!json_equal(calls[i], wanted)) {
        char *text = json_dumps(calls[i], JSON_COMPACT);
        fail_msg("call %u was %s, not %s", i, text, json);
    }
    json_decref(wanted);
}

static int set_up(void **state)
{
    (void)state;
    setenv("FARPOOL_COORDINATORS", "tcp://one:1,tcp://two:2", 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    forget();
    return 0;
}

#define NODES                                                                                      \
    "[{\"name\": \"m1\", \"role\": \"memory\", \"uris\": [\"tcp://10.0.0.1:7\"], \"zone\": \"a\"," \
    "  \"rack\": \"\", \"host\": \"h1\", \"bytes\": 4294967296, \"state\": \"member\","            \
    "  \"storage\": \"s1\", \"up\": true, \"actual\": {\"granted\": 1610612736, \"lag\": 0}},"     \
    " {\"name\": \"kn\xc3\xb6pf\", \"role\": \"compute\", \"uris\": [], \"state\": \"draining\","  \
    "  \"up\": false, \"address\": \"db.\\u001b[2Jexample:5432\"}]"
#define PARTITION                                                                                  \
    "{\"id\": 7, \"name\": \"orders\", \"state\": \"active\", \"phase\": \"open\", \"epoch\": 12," \
    " \"owner\": \"c1\", \"memnodes\": [\"m1\", \"m2\", \"m3\"], \"storagenodes\": [\"s1\"],"      \
    " \"slab_bytes\": 268435456, \"log_ring_bytes\": 67108864, \"log_quorum\": 2,"                 \
    " \"log_copies\": 3}"

static void tables_are_aligned(void **state)
{
    (void)state;
    answer("{\"nodes\": " NODES "}");
    assert_int_equal(run("node list", NULL), FP_CTL_DONE);
    assert_string_equal(
        out, "NAME   ROLE     STATE           ZONE  RACK  HOST  USE                   LAG  "
             "STORAGE  ADDRESS\n"
             "m1     memory   up              a     -     h1    1.5 GiB of 4 GiB  0 bytes  "
             "s1       tcp://10.0.0.1:7\n"
             "kn\xc3\xb6pf  compute  away, draining  -     -     -     -                       -  "
             "-        db.?[2Jexample:5432\n");
    assert_string_equal(err, "");
    assert_string_equal(opened, "tcp://one:1,tcp://two:2");
    called(0, "{\"method\": \"node.list\"}");
}

static void status_has_it_all(void **state)
{
    (void)state;
    answer("{\"leader\": {\"name\": \"k1\", \"uris\": [\"tcp://k1:1\"]}, \"term\": 9, \"cluster\":"
           " \"00ff\", \"nodes\": " NODES ", \"partitions\": [" PARTITION "], \"stalled\":"
           " [\"partition 8 waits for m2 and m3\"]}");
    assert_int_equal(run("status", NULL), FP_CTL_DONE);
    HAS(out, "cluster 00ff, led by k1 at tcp://k1:1 in term 9\n");
    HAS(out, " 7  orders  active  open      12  c1     m1, m2, m3    s1             256 MiB    64 "
             "MiB  2 of 3\n");
    HAS(out, "stalled: partition 8 waits for m2 and m3\n");
    answer("{}");
    assert_int_equal(run("status", NULL), FP_CTL_DONE);
    HAS(out, "Nothing is stalled");
}

static void json_is_what_was_answered(void **state)
{
    (void)state;
    answer("{\"id\": 7, \"unheard\": [1, {}]}");
    assert_int_equal(run("route orders -o json", NULL), FP_CTL_DONE);
    json_t *printed = json_loads(out, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(printed, "id")), 7);
    assert_int_equal(json_array_size(json_object_get(printed, "unheard")), 2);
    json_decref(printed);
    called(0, "{\"method\": \"route\", \"partition\": \"orders\"}");
}

static void options_become_parameters(void **state)
{
    (void)state;
    answer("{\"id\": 8}");
    assert_int_equal(run("partition create orders --slab 1g --log-copies 3 --log-quorum 2 --owner "
                         "c1 --when-lost storage",
                         NULL),
                     FP_CTL_DONE);
    called(0, "{\"method\": \"partition.create\", \"name\": \"orders\", \"slab_bytes\": 1073741824,"
              " \"log_copies\": 3, \"log_quorum\": 2, \"owner\": \"c1\", \"when_lost\":"
              " \"storage\"}");
    assert_string_equal(out, "Partition orders is created. Its number is 8.\n");
    answer("{\"epoch\": 5}");
    assert_int_equal(run("partition move 8 --to c2", NULL), FP_CTL_DONE);
    called(1, "{\"method\": \"partition.move\", \"partition\": 8, \"to\": \"c2\"}");
    HAS(out, "Its epoch is 5");
    answer("{}");
    assert_int_equal(run("partition read-only 8", NULL), FP_CTL_DONE);
    called(2, "{\"method\": \"partition.read_only\", \"partition\": 8, \"on\": true}");
    answer("{}");
    assert_int_equal(run("--timeout 77 partition read-write x", NULL), FP_CTL_DONE);
    called(3, "{\"method\": \"partition.read_only\", \"partition\": \"x\", \"on\": false}");
}

static void balance_goes_step_by_step(void **state)
{
    (void)state;
    answer("{\"step\": \"p: c2 gets it\"}");
    assert_int_equal(run("balance", NULL), FP_CTL_DONE);
    assert_string_equal(out, "p: c2 gets it\n");
    called(0, "{\"method\": \"balance\"}");
    refuse(FARPOOL_E_BUSY);
    assert_int_equal(run("balance", NULL), FP_CTL_STATE);
    answer("{\"step\": \"p: c2 gets it\"}");
    refuse(FARPOOL_E_BUSY);
    refuse(FARPOOL_E_UNKNOWN);
    answer("{\"step\": \"\"}");
    assert_int_equal(run("balance --wait", NULL), FP_CTL_DONE);
    assert_string_equal(out, "p: c2 gets it\nThere is nothing to move.\n");
    HAS(err, "a sentence");
    forget();
    answer("{\"step\": \"\"}");
    assert_int_equal(run("balance -o json", NULL), FP_CTL_DONE);
    assert_string_equal(out, "{\"step\":\"\"}\n");
    refuse(FARPOOL_E_REFUSED);
    assert_int_equal(run("balance --wait", NULL), FP_CTL_FAILED);
}

static void wrong_usage(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"", "a command is missing"},
        {"frobnicate", "there is no command 'frobnicate'"},
        {"node", "there is no command 'node'"},
        {"node frobnicate m1", "there is no command 'node frobnicate'"},
        {"node drain", "node drain: which NODE?"},
        {"node list m1", "'m1' is too much"},
        {"status --wait", "status takes no --wait"},
        {"route 1 --to c1", "route takes no --to"},
        {"status --frobnicate", "there is no option --frobnicate"},
        {"status -x", "there is no option -x"},
        {"status -o", "-o needs a value"},
        {"status -o xml", "neither table nor json"},
        {"status --timeout 0", "--timeout: '0' is not a number"},
        {"help bogus", "there is no command 'bogus'"},
        {"partition create x --slab much", "is not a size"},
        {"status --config /nowhere/to/be.found", "/nowhere/to/be.found"},
        {"partition delete 3", "wants --yes"},
        {"node remove m1", "wants --yes"},
        {"failover 3 --from-storage", "wants --yes"},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(run(cases[i].line, NULL), FP_CTL_USAGE);
        HAS(err, cases[i].says);
        assert_string_equal(out, "");
    }
    unsetenv("FARPOOL_COORDINATORS");
    assert_int_equal(run("status", NULL), FP_CTL_USAGE);
    HAS(err, "no --coordinators");
}

static void coordinators_come_from_three_places(void **state)
{
    (void)state;
    char path[] = "/tmp/farpool-ctl-XXXXXX", line[100];
    FILE *file = fdopen(mkstemp(path), "w");
    fputs("# whom to ask\ncoordinators = tcp://file:1\ntimeout = 99\nkey-file = /the/key\n", file);
    fclose(file);
    snprintf(line, sizeof line, "route 1 --config %s", path);
    answer("{}");
    assert_int_equal(run(line, NULL), FP_CTL_DONE);
    assert_string_equal(opened, "tcp://one:1,tcp://two:2");
    assert_string_equal(key, "/the/key");
    answer("{}");
    assert_int_equal(run("route 1 --coordinators tcp://line:1", NULL), FP_CTL_DONE);
    assert_string_equal(opened, "tcp://line:1");
    assert_string_equal(key, "");
    strcat(line, " -k /another");
    answer("{}");
    assert_int_equal(run(line, NULL), FP_CTL_DONE);
    assert_string_equal(key, "/another");
    unsetenv("FARPOOL_COORDINATORS");
    /* What the file said is gone when the program ends. */
    refuse(FARPOOL_E_NODE);
    assert_int_equal(run(line, NULL), FP_CTL_NOBODY);
    assert_int_equal(asked, 4);
    file = fopen(path, "w");
    fputs("colour = red\n", file);
    fclose(file);
    assert_int_equal(run(line, NULL), FP_CTL_USAGE);
    HAS(err, ":1: unknown key 'colour'");
    unlink(path);
}

static void codes_become_exit_statuses(void **state)
{
    (void)state;
    static const struct {
        int code, status;
    } cases[] = {
        {FARPOOL_E_INVAL, 2},    {FARPOOL_E_NODE, 3}, {FARPOOL_E_TIMEOUT, 3},
        {FARPOOL_E_NOTFOUND, 4}, {FARPOOL_E_BUSY, 5}, {FARPOOL_E_EXISTS, 5},
        {FARPOOL_E_UNKNOWN, 6},  {FARPOOL_E_IO, 1},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        refuse(cases[i].code);
        assert_int_equal(run("node drain m1", NULL), cases[i].status);
        HAS(err, "farpoolctl: a sentence?[2J (E_");
        forget();
    }
}

/* A coordinator that dies while it is asked: what only reads is asked of another one. */
static void reading_is_repeated(void **state)
{
    (void)state;
    refuse(FARPOOL_E_UNKNOWN);
    answer("{\"id\": 1}");
    assert_int_equal(run("route 1", NULL), FP_CTL_DONE);
    assert_int_equal(asked, 2);
    /* One that is stopped must not cost all the time that there is, unless something is to be changed. */
    assert_in_range(patience[0], 1600, 1700);
    refuse(FARPOOL_E_UNKNOWN);
    assert_int_equal(run("partition create x", NULL), FP_CTL_UNKNOWN);
    assert_int_equal(asked, 3);
    assert_in_range(patience[2], 4900, 5001);
}

static void danger_is_confirmed(void **state)
{
    (void)state;
    assert_int_equal(run("partition delete 3", "no\n"), FP_CTL_FAILED);
    HAS(err, "Partition 3 and all that is in it will be deleted. Type yes");
    HAS(err, "Nothing was done");
    answer("{}");
    assert_int_equal(run("partition delete 3", "yes\n"), FP_CTL_DONE);
    called(0, "{\"method\": \"partition.delete\", \"partition\": 3}");
    answer("{}");
    assert_int_equal(run("node remove m1 --yes", NULL), FP_CTL_DONE);
    answer("{\"epoch\": 3}");
    assert_int_equal(run("failover 3 --from-storage -y --to c2", NULL), FP_CTL_DONE);
    called(2, "{\"method\": \"failover\", \"partition\": 3, \"from_storage\": true, \"to\": "
              "\"c2\"}");
    answer("{\"epoch\": 4}");
    assert_int_equal(run("failover 3", NULL), FP_CTL_DONE);
}

#define STATUS(phase, epoch, stalled)                                                              \
    "{\"partitions\": [{\"id\": 8, \"name\": \"x\", \"phase\": \"" phase "\", \"epoch\": " epoch   \
    "}], \"stalled\": [" stalled "]}"

static void waiting(void **state)
{
    (void)state;
    answer("{\"epoch\": 5}");
    answer(STATUS("open", "4", ""));
    answer(
        STATUS("fencing", "5", "\"memory node x is lost\", \"partition x2\", \"partition x: m2\""));
    answer(STATUS("fencing", "5", "\"partition x: m2\""));
    refuse(FARPOOL_E_NODE);
    answer(STATUS("open", "5", ""));
    assert_int_equal(run("failover x --wait", NULL), FP_CTL_DONE);
    assert_int_equal(asked, 6);
    assert_string_equal(err, "farpoolctl: partition x: open, epoch 4, owner -\n"
                             "farpoolctl: partition x: fencing, epoch 5, owner -; stalled: "
                             "partition x: m2\n"
                             "farpoolctl: a sentence?[2J\n");
    HAS(out, "It has taken effect");
    forget();
    answer("{\"epoch\": 5}"); /* the one before had that name, too */
    answer("{\"partitions\": [{\"id\": 7, \"name\": \"x\", \"state\": \"deleted\"}, {\"id\": 8, "
           "\"name\": \"x\", \"phase\": \"open\", \"epoch\": 6, \"owner\": \"c1\"}]}");
    assert_int_equal(run("partition move x --to c2 --wait", NULL), FP_CTL_STATE);
    HAS(err, "partition x is open at c1 under epoch 6, for c2 did not open it");
    forget();
    answer("{\"epoch\": 5}");
    refuse(FARPOOL_E_REFUSED);
    assert_int_equal(run("partition move x --wait", NULL), FP_CTL_FAILED);
    forget();
    answer("{}");
    answer("{\"partitions\": [{\"id\": 8, \"state\": \"deleted\", \"phase\": \"deleting\"}]}");
    answer("{\"partitions\": []}");
    assert_int_equal(run("partition delete 8 --wait --yes", NULL), FP_CTL_DONE);
    HAS(err, "partition 8 is not gone from all nodes");
    forget();
    answer("{}");
    answer("{\"nodes\": [{\"name\": \"m1\", \"state\": \"draining\"}], \"partitions\":"
           " [{\"owner\": \"c\", \"memnodes\": [\"m1\"]}, {\"owner\": \"m1\"}, {}]}");
    answer("{\"nodes\": [{\"name\": \"m1\", \"state\": \"drained\"}]}");
    assert_int_equal(run("node drain m1 --wait", NULL), FP_CTL_DONE);
    HAS(err, "node m1 has a part in 2 partitions");
    forget();
    answer("{}");
    answer("{\"nodes\": [{\"name\": \"m1\", \"state\": \"member\"}]}");
    assert_int_equal(run("node drain m1 --wait", NULL), FP_CTL_STATE);
    forget();
    answer("{\"id\": 8}");
    answer("{\"partitions\": []}");
    assert_int_equal(run("partition create x --wait", NULL), FP_CTL_NOT_FOUND);
}

static void events_come_in_pages(void **state)
{
    (void)state;
    setenv("TZ", "UTC", 1);
    answer("{\"events\": [{\"seq\": 3, \"time_ms\": 86400005, \"kind\": \"lost\", \"node\": \"m1\","
           " \"text\": \"it was silent\\n\"}], \"next\": 4}");
    answer("{\"events\": [{\"seq\": 4, \"time_ms\": 86400005, \"kind\": \"open\", \"partition\": 7,"
           " \"text\": \"it is open\"}], \"next\": 5}");
    answer("{\"events\": [], \"next\": 5}");
    assert_int_equal(run("events --from 3", NULL), FP_CTL_DONE);
    assert_string_equal(
        out, "     3  1970-01-02 00:00:00.005  lost                            m1           it was "
             "silent?\n"
             "     4  1970-01-02 00:00:00.005  open             partition 7                 it is "
             "open\n");
    called(0, "{\"method\": \"events\", \"from\": 3, \"wait_ms\": 0}");
    called(1, "{\"method\": \"events\", \"from\": 4, \"wait_ms\": 0}");
    answer("{\"events\": [{\"seq\": 3}], \"next\": 4}");
    answer("{\"events\": [{\"seq\": 3}], \"next\": 4}");
    assert_int_equal(run("events -o json", NULL), FP_CTL_FAILED);
    assert_string_equal(out, "{\"seq\":3}\n{\"seq\":3}\n");
}

static void help(void **state)
{
    (void)state;
    assert_int_equal(run("--help", NULL), FP_CTL_DONE);
    for (unsigned i = 0; i < fp_ctl_command_count; i++)
        HAS(out, fp_ctl_commands[i].name);
    assert_int_equal(run("help failover", NULL), FP_CTL_DONE);
    HAS(out, "--from-storage");
    assert_null(strstr(out, "node drain"));
    assert_null(strstr(out, "--slab"));
    assert_int_equal(run("failover orders --help", NULL), FP_CTL_DONE);
    HAS(out, "--from-storage");
    assert_int_equal(run("partition --help", NULL), FP_CTL_DONE);
    HAS(out, "--slab");
    assert_int_equal(run("help partition move", NULL), FP_CTL_DONE);
    HAS(out, "--to");
    assert_null(strstr(out, "--slab"));
    assert_int_equal(run("--version", NULL), FP_CTL_DONE);
    HAS(out, "farpoolctl ");
}

/* tests/unit/doctor.c shows what it finds; here, that it is asked for and that nobody else is. */
static void the_doctor(void **state)
{
    (void)state;
    unsetenv("FARPOOL_COORDINATORS");
    int status = run("doctor -o json --volume /nowhere/at/all --memory 64m", NULL);
    assert_int_equal(status, FP_CTL_FAILED);
    HAS(out, "/nowhere/at/all");
    json_t *report = json_loads(out, 0, NULL);
    assert_true(fp_json_number(report, "fail") > 0);
    json_decref(report);
    assert_int_equal(asked, 0);
    assert_int_equal(run("doctor --numa-node x", NULL), FP_CTL_USAGE);
    assert_int_equal(run("status --verbs", NULL), FP_CTL_USAGE);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(tables_are_aligned),
        TEST(status_has_it_all),
        TEST(json_is_what_was_answered),
        TEST(options_become_parameters),
        TEST(balance_goes_step_by_step),
        TEST(wrong_usage),
        TEST(coordinators_come_from_three_places),
        TEST(codes_become_exit_statuses),
        TEST(reading_is_repeated),
        TEST(danger_is_confirmed),
        TEST(waiting),
        TEST(events_come_in_pages),
        TEST(help),
        TEST(the_doctor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
