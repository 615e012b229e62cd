/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shows that the decoders of control messages and addresses take damaged and random input. What is accepted must
 * encode to the very same bytes.
 */
#include <stdio.h>
#include <string.h>

#include "common/net/net.h"
#include "common/wire.h"
#include "tests/lib/fuzz.h"

const unsigned fuzz_runs = 500000;

void fuzz_one(const uint8_t *data, size_t size)
{
    static fp_msg msg;
    static uint8_t again[FP_NET_MESSAGE_MAX];
    char text[512];
    fp_uri uri;
    if (size <= FP_NET_MESSAGE_MAX && !fp_wire_decode(data, size, &msg)) {
        FUZZ_CHECK(fp_wire_encode(&msg, again, sizeof again) == size);
        FUZZ_CHECK(!memcmp(again, data, size));
    }
    size_t len = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, len);
    text[len] = 0;
    if (fp_uri_parse(text, &uri))
        return;
    FUZZ_CHECK(strlen(uri.host) < sizeof uri.host && strlen(text) < FP_NET_URI_MAX);
    FUZZ_CHECK(strlen(uri.name) < sizeof uri.name);
    char named[FP_NET_URI_MAX];
    if (!fp_uri_with_name(text, "node", named)) {
        FUZZ_CHECK(!uri.name[0] && !fp_uri_parse(named, &uri) && !strcmp(uri.name, "node"));
    }
}

/* A message of some type, or an address, damaged in a few places. */
size_t fuzz_make(uint64_t *random, uint8_t *data, size_t capacity)
{
    static fp_msg msg;
    size_t len;
    uint64_t r = test_random(random);
    if (r % 8 == 0) {
        len = (size_t)sprintf((char *)data, "%s://%s[::1]:%llu", r & 8 ? "verbs" : "tcp",
                              r & 16 ? "node@" : "", (unsigned long long)(r >> 40));
    } else {
        memset(&msg, 0, offsetof(fp_msg, extents));
        msg.type = FP_MSG_HELLO + (enum fp_msg_type)((r >> 8) % FP_MSG_LAST);
        msg.count = (uint32_t)((r >> 16) % 4);
        msg.total = msg.count;
        snprintf(msg.text, sizeof msg.text, "%llx", (unsigned long long)r);
        len = fp_wire_encode(&msg, data, FP_NET_MESSAGE_MAX);
    }
    return fuzz_damage(random, data, len, capacity);
}
