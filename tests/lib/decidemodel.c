/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/decidemodel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "coordinator/duties.h"

fp_model decide_model;
fp_part *decide_part;

int decide_set_up(void **state)
{
    (void)state;
    test_model_open(&decide_model);
    for (unsigned i = 0; i < 4; i++) {
        char name[8], zone[8];
        snprintf(name, sizeof name, "m%u", i);
        snprintf(zone, sizeof zone, "z%u", i);
        test_model_member(&decide_model, FP_ROLE_MEMORY, name, zone, DECIDE_BYTES);
    }
    test_model_member(&decide_model, FP_ROLE_STORAGE, "s0", "z0", DECIDE_BYTES);
    test_model_member(&decide_model, FP_ROLE_STORAGE, "s1", "z1", DECIDE_BYTES);
    test_model_member(&decide_model, FP_ROLE_COMPUTE, "c0", "", 0);
    test_model_member(&decide_model, FP_ROLE_COMPUTE, "c1", "", 0);
    decide_part = test_model_part(&decide_model, "p");
    test_model_settle(&decide_model);
    return 0;
}

int decide_tear_down(void **state)
{
    (void)state;
    fp_model_clear(&decide_model);
    return 0;
}

void decide_raise(const char *name, unsigned epoch, bool ring)
{
    char text[200];
    snprintf(text, sizeof text, "{'id': 1, 'epoch': %u, 'ring': %d, 'slab': %d}", epoch,
             ring ? 4096 : 0, ring ? 4096 : 0);
    test_model_tell(&decide_model, name, text);
}

void decide_owner_tells(const char *name, unsigned epoch, const char *state, int code)
{
    char text[200];
    snprintf(text, sizeof text,
             "{'id': 1, 'epoch': %u, 'state': '%s', 'code': %d, 'text': 'why not'}", epoch, state,
             code);
    test_model_tell(&decide_model, name, text);
}

void decide_check(enum fp_phase phase, unsigned epoch, const char *owner)
{
    assert_string_equal(fp_phase_names[decide_part->r.phase], fp_phase_names[phase]);
    assert_int_equal(decide_part->r.epoch, epoch);
    assert_string_equal(decide_part->r.owner, owner);
}

void decide_open(void)
{
    for (unsigned i = 0; i < 3; i++)
        decide_raise(decide_part->r.memnodes.names[i], 1, false);
    test_model_settle(&decide_model);
    decide_check(FP_ASSIGNED, 1, "c0");
    for (unsigned i = 0; i < 3; i++)
        decide_raise(decide_part->r.memnodes.names[i], 1, true);
    decide_owner_tells("c0", 1, "open", 0);
    test_model_settle(&decide_model);
    decide_check(FP_OPEN, 1, "c0");
    test_model_pass(&decide_model, 10000); /* it has been so for a while */
    for (unsigned i = 0; i < 3; i++)
        decide_raise(decide_part->r.memnodes.names[i], 1, true);
    test_model_settle(&decide_model);
    decide_check(FP_OPEN, 1, "c0");
}

void decide_lose(const char *name)
{
    fp_member_gone(&decide_model, fp_model_member(&decide_model, name), false);
    test_model_pass(&decide_model, 600);
}

json_int_t decide_epoch_told(const char *name)
{
    json_t *duties = fp_duties(&decide_model, fp_model_member(&decide_model, name));
    const json_t *first = json_array_get(json_object_get(duties, "partitions"), 0);
    json_int_t epoch = json_integer_value(json_object_get(first, "epoch"));
    json_decref(duties);
    return epoch;
}

bool decide_is_told(const char *name) { return decide_epoch_told(name) > 0; }
