/* SPDX-License-Identifier: Apache-2.0 */
#include "common/cluster/call.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

void fp_call_drop(fp_call_in *in)
{
    free(in->bytes);
    *in = (fp_call_in){0};
}

static int begin(fp_call_in *in, const fp_msg *msg)
{
    if (msg->at)
        return fp_error(FARPOOL_E_PROTO, "a call whose beginning is missing");
    if (!msg->bytes || msg->bytes > FP_CALL_MAX)
        return fp_error(FARPOOL_E_TOO_BIG, "a call of %" PRIu64 " bytes: 1 to %d are taken",
                        msg->bytes, FP_CALL_MAX);
    in->bytes = malloc(msg->bytes);
    if (!in->bytes)
        return fp_error(FARPOOL_E_NOMEM, "no memory for a call of %" PRIu64 " bytes", msg->bytes);
    in->total = msg->bytes;
    in->request = msg->request;
    return 0;
}

static int parse(const fp_call_in *in, json_t **whole)
{
    json_error_t error;
    *whole = json_loadb(in->bytes, in->total, JSON_REJECT_DUPLICATES, &error);
    if (json_is_object(*whole))
        return 0;
    json_decref(*whole);
    *whole = NULL;
    return fp_error(FARPOOL_E_PROTO, "a call that is no JSON object: %s",
                    error.text[0] ? error.text : "it is something else");
}

int fp_call_take(fp_call_in *in, const fp_msg *msg, json_t **whole)
{
    *whole = NULL;
    int rc = in->bytes ? 0 : begin(in, msg);
    if (!rc && (msg->request != in->request || msg->bytes != in->total || msg->at != in->have ||
                !msg->data_len || msg->data_len > in->total - in->have))
        rc = fp_error(FARPOOL_E_PROTO, "part of a call that does not follow the one before");
    if (!rc) {
        memcpy(in->bytes + in->have, msg->data, msg->data_len);
        in->have += msg->data_len;
        if (in->have < in->total)
            return 0;
        rc = parse(in, whole);
    }
    fp_call_drop(in);
    return rc;
}

int fp_call_send(fp_conn *conn, enum fp_msg_type type, uint32_t request, const json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT);
    fp_msg *msg = calloc(1, sizeof *msg);
    uint8_t *buffer = malloc(FP_NET_MESSAGE_MAX);
    size_t len = text ? strlen(text) : 0;
    int rc = 0;
    if (!text || !msg || !buffer)
        rc = fp_error(FARPOOL_E_NOMEM, "%s: no memory for a call", fp_net_conn_peer(conn));
    else if (len > FP_CALL_MAX)
        rc = fp_error(FARPOOL_E_TOO_BIG, "%s: a call of %zu bytes: at most %d can be sent",
                      fp_net_conn_peer(conn), len, FP_CALL_MAX);
    for (size_t at = 0; !rc && at < len; at += msg->data_len) {
        size_t left = len - at;
        *msg = (fp_msg){.type = type, .request = request, .bytes = len, .at = at};
        msg->data_len = left < FP_WIRE_DATA_MAX ? (uint32_t)left : FP_WIRE_DATA_MAX;
        memcpy(msg->data, text + at, msg->data_len);
        rc = fp_net_send(conn, buffer, fp_wire_encode(msg, buffer, FP_NET_MESSAGE_MAX));
    }
    free(buffer);
    free(msg);
    free(text);
    return rc;
}

void fp_call_words(char *to, size_t room, const char *from)
{
    snprintf(to, room, "%s", from);
    for (; *to; to++) {
        if (*to < ' ' || *to > '~')
            *to = '?';
    }
}

bool fp_call_lists(const json_t *list, const char *text)
{
    size_t i;
    const json_t *each;
    json_array_foreach(list, i, each) if (json_is_string(each) &&
                                          !strcmp(json_string_value(each), text)) return true;
    return false;
}
