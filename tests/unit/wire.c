/* SPDX-License-Identifier: Apache-2.0 */
/* Shows that control messages survive the wire field by field, and that what is not exactly a message of this
 * protocol is refused in words. */
#include "common/wire.h"
#include "common/net/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static fp_msg in, out;
static uint8_t buffer[FP_NET_MESSAGE_MAX];

static size_t encode(enum fp_msg_type type)
{
    memset(&in, 0, sizeof in);
    in.type = type;
    in.request = 0x01020304;
    in.partition = 5;
    in.epoch = UINT64_MAX;
    in.bytes = 1ull << 40;
    in.held = 1ull << 41;
    in.boot_id = 77;
    in.total = 600;
    in.first = 100;
    in.count = FP_WIRE_EXTENTS_MAX;
    in.extent_bytes = 4160 << 10;
    in.lsn = 1ull << 50;
    in.pid = 1ull << 44;
    in.order = 10;
    in.offset = 8192;
    in.at = 1ull << 41;
    memset(in.hash, 0xA5, sizeof in.hash);
    in.fork = 1ull << 42;
    in.lineage = (fp_lineage){.count = 2, .before = 1, .forks = {{2, 64}, {4, 128}}};
    in.wal.durable = 4096;
    in.wal.landing = (fp_rkey){7, 8, 9};
    in.wal.landing_free = 1ull << 33;
    for (uint32_t i = 0; i < in.count; i++)
        in.extents[i] = (fp_rkey){i, i * 3ull, i * 7ull};
    memset(in.nonce, 0xA1, sizeof in.nonce);
    memset(in.proof, 0xB2, sizeof in.proof);
    in.data_len = sizeof in.extents;
    in.usage.data_bytes = 9;
    in.code = FARPOOL_E_FENCED;
    memset(in.text, 'x', FP_WIRE_TEXT_MAX);
    return fp_wire_encode(&in, buffer, sizeof buffer);
}

static void every_type_survives(void **state)
{
    (void)state;
    for (int type = FP_MSG_HELLO; type <= FP_MSG_LAST; type++) {
        size_t len = encode((enum fp_msg_type)type);
        assert_int_equal(fp_wire_decode(buffer, len, &out), 0);
        assert_int_equal(out.type, type);
        assert_int_equal(out.request, in.request);
        if (type == FP_MSG_EXTENTS) {
            assert_int_equal(out.count, in.count);
            assert_int_equal(out.extent_bytes, in.extent_bytes);
            assert_memory_equal(out.extents, in.extents, sizeof in.extents);
        }
        if (type == FP_MSG_GRANT)
            assert_true(out.epoch == in.epoch && out.bytes == in.bytes && out.held == in.held &&
                        out.partition == 5);
        if (type == FP_MSG_ERROR) {
            assert_int_equal(out.code, FARPOOL_E_FENCED);
            assert_string_equal(out.text, in.text);
        }
        if (type == FP_MSG_WAL_STATE)
            assert_memory_equal(&out.wal, &in.wal, sizeof in.wal);
        if (type == FP_MSG_WAL_JOIN || type == FP_MSG_WAL_STATE)
            assert_memory_equal(&out.lineage, &in.lineage, sizeof in.lineage);
        if (type == FP_MSG_LOG_GET)
            assert_true(out.fork == in.fork);
        if (type == FP_MSG_PAGE)
            assert_true(out.pid == in.pid && out.lsn == in.lsn && out.order == 10 &&
                        out.offset == 8192 && out.data_len == in.data_len &&
                        !memcmp(out.data, in.data, in.data_len));
        if (type == FP_MSG_FILE)
            assert_true(out.at == in.at && !memcmp(out.hash, in.hash, sizeof in.hash) &&
                        out.data_len == in.data_len && !memcmp(out.data, in.data, in.data_len));
        if (type == FP_MSG_MANIFEST)
            assert_true(out.at == in.at && out.bytes == in.bytes && out.data_len == in.data_len);
        if (type == FP_MSG_HELLO || type == FP_MSG_CHALLENGE)
            assert_memory_equal(out.nonce, in.nonce, sizeof in.nonce);
        if (type == FP_MSG_CHALLENGE || type == FP_MSG_PROOF)
            assert_memory_equal(out.proof, in.proof, sizeof in.proof);
        if (type == FP_MSG_USAGE_OK)
            assert_int_equal(out.usage.data_bytes, 9);
    }
}

static void every_other_length_is_refused(void **state)
{
    (void)state;
    for (int type = FP_MSG_HELLO; type <= FP_MSG_LAST; type++) {
        size_t len = encode((enum fp_msg_type)type);
        for (size_t cut = 0; cut < len; cut += cut < 64 ? 1 : 61)
            assert_int_equal(fp_wire_decode(buffer, cut, &out), FARPOOL_E_PROTO);
        if (len < sizeof buffer)
            assert_int_equal(fp_wire_decode(buffer, len + 1, &out), FARPOOL_E_PROTO);
    }
}

static void refused(size_t at, uint8_t value, const char *word)
{
    size_t len = encode(FP_MSG_EXTENTS);
    buffer[at] = value;
    assert_int_equal(fp_wire_decode(buffer, len, &out), FARPOOL_E_PROTO);
    assert_non_null(strstr(farpool_errmsg(), word));
}

static void strangers_are_told(void **state)
{
    (void)state;
    refused(0, 'G', "none of farpool's");
    refused(4, 77, "version 77");
    refused(6, 99, "unknown type 99");
    refused(6, 0, "unknown type 0");
    refused(8, 1, "says");
    refused(16 + 16 + 4 + 8, 0xFF, "does not fit"); /* count */
}

static void an_impossible_lineage_is_refused(void **state)
{
    (void)state;
    size_t len = encode(FP_MSG_WAL_JOIN), at = 16 + 16;
    buffer[at] = FP_FORKS_MAX + 1;
    assert_int_equal(fp_wire_decode(buffer, len, &out), FARPOOL_E_PROTO);
    buffer[at] = 2;
    assert_int_equal(fp_wire_decode(buffer, len, &out), 0);
    buffer[at + 4 + 8 + 8] = 200; /* the first fork is behind the second */
    assert_int_equal(fp_wire_decode(buffer, len, &out), FARPOOL_E_PROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_impossible_lineage_is_refused),
        cmocka_unit_test(every_type_survives),
        cmocka_unit_test(every_other_length_is_refused),
        cmocka_unit_test(strangers_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
