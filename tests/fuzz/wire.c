/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Feeds the decoders of control messages and addresses with damaged and random input. Linked with
 * clang -fsanitize=fuzzer it is a libFuzzer target; by itself it makes a fixed number of runs from SEED. What is
 * accepted must encode to the very same bytes.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/net/net.h"
#include "common/wire.h"
#include "tests/lib/testnode.h"

enum { RUNS = 2000000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fp_msg msg;
    static uint8_t again[FP_NET_MESSAGE_MAX];
    char text[512];
    fp_uri uri;
    if (size <= FP_NET_MESSAGE_MAX && !fp_wire_decode(data, size, &msg)) {
        FP_ASSERT(fp_wire_encode(&msg, again, sizeof again) == size);
        FP_ASSERT(!memcmp(again, data, size));
    }
    size_t len = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, len);
    text[len] = 0;
    if (!fp_uri_parse(text, &uri))
        FP_ASSERT(strlen(uri.host) < sizeof uri.host && strlen(text) < FP_NET_URI_MAX);
    return 0;
}

#ifndef FARPOOL_LIBFUZZER
/* A message of some type, or an address, damaged in a few places. */
static size_t make(uint64_t *random, uint8_t *buffer)
{
    static fp_msg msg;
    size_t len;
    uint64_t r = test_random(random);
    if (r % 8 == 0) {
        len = (size_t)sprintf((char *)buffer, "%s://[::1]:%llu", r & 8 ? "verbs" : "tcp",
                              (unsigned long long)(r >> 40));
    } else {
        msg.type = FP_MSG_HELLO + (enum fp_msg_type)((r >> 8) % FP_MSG_ERROR);
        msg.count = (uint32_t)((r >> 16) % 4);
        msg.total = msg.count;
        snprintf(msg.text, sizeof msg.text, "%llx", (unsigned long long)r);
        len = fp_wire_encode(&msg, buffer, FP_NET_MESSAGE_MAX);
    }
    for (uint64_t n = (r >> 32) % 4; n > 0; n--) {
        uint64_t where = test_random(random);
        buffer[(where >> 8) % len] = (uint8_t)where;
    }
    if ((r >> 36) % 4 == 0)
        len = (r >> 48) % (len + 1);
    return len;
}

int main(void)
{
    static uint8_t buffer[FP_NET_MESSAGE_MAX];
    uint64_t random = test_seed(1);
    for (unsigned i = 0; i < RUNS; i++)
        LLVMFuzzerTestOneInput(buffer, make(&random, buffer));
    printf("%d inputs\n", RUNS);
    return 0;
}
#endif
