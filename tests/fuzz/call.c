/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that calls are put together from whatever parts come: an object comes out only if its parts came in order, under one
 * number, and are as long as they said; nothing else is remembered after an error. */
#include <string.h>

#include "common/cluster/call.h"
#include "tests/lib/fuzz.h"

const unsigned fuzz_runs = 100000;

void fuzz_one(const uint8_t *data, size_t size)
{
    static fp_msg msg;
    fuzz_script script = {data, data + size};
    fp_call_in in = {0};
    while (script.at < script.end) {
        size_t got;
        msg = (fp_msg){.type = FP_MSG_CALL, .request = (uint32_t)fuzz_number(&script, 1) % 2};
        msg.bytes = fuzz_number(&script, 1) + (fuzz_number(&script, 1) == 7 ? FP_CALL_MAX : 0);
        msg.at = fuzz_number(&script, 1);
        const uint8_t *part = fuzz_bytes(&script, fuzz_number(&script, 1), &got);
        msg.data_len = (uint32_t)got;
        memcpy(msg.data, part, got);
        json_t *whole;
        uint64_t before = in.have;
        int rc = fp_call_take(&in, &msg, &whole);
        FUZZ_CHECK(!whole || (!rc && json_is_object(whole) && before + got == msg.bytes));
        FUZZ_CHECK(!(rc || whole) || (!in.bytes && !in.have));
        FUZZ_CHECK(in.have <= in.total && in.total <= FP_CALL_MAX);
        json_decref(whole);
    }
    fp_call_drop(&in);
}

/* An object in two or three parts, damaged. */
size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity)
{
    static const char text[] = "{\"method\":\"wait\",\"seen\":12,\"actual\":{\"a\":[1,2,3]}}";
    size_t len = 0, all = sizeof text - 1;
    for (size_t at = 0, n; at < all; at += n) {
        n = 1 + test_random(random) % (all - at);
        const uint8_t head[] = {1, (uint8_t)all, 0, (uint8_t)at, (uint8_t)n};
        memcpy(data + len, head, sizeof head);
        memcpy(data + len + sizeof head, text + at, n);
        len += sizeof head + n;
    }
    return test_random(random) % 4 ? fuzz_damage(random, data, len, capacity) : len;
}
