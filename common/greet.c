/* SPDX-License-Identifier: Apache-2.0 */
#include "common/greet.h"

#include <stdio.h>
#include <string.h>

#include "common/error.h"

int fp_greet_begin(fp_greet *greet, const fp_auth *auth, const char *name, const char *wanted,
                   fp_msg *msg)
{
    memset(greet, 0, sizeof *greet);
    greet->auth = auth;
    snprintf(greet->client, sizeof greet->client, "%s", auth ? fp_auth_name(auth) : name);
    snprintf(greet->wanted, sizeof greet->wanted, "%s", wanted);
    msg->type = FP_MSG_HELLO;
    strcpy(msg->text, greet->client);
    int rc = auth ? fp_auth_random(greet->nonce) : 0;
    memcpy(msg->nonce, greet->nonce, FP_AUTH_BYTES);
    return rc;
}

/* Its address may have become another node's. */
static int check_name(const fp_greet *greet, const char *name)
{
    if (!greet->wanted[0] || !strcmp(greet->wanted, name))
        return 0;
    return fp_error(FARPOOL_E_NODE, "node '%.80s' answers there instead of '%s'", name,
                    greet->wanted);
}

static int take_challenge(fp_greet *greet, fp_msg *msg)
{
    uint8_t proof[FP_AUTH_BYTES];
    if (greet->proven)
        return fp_error(FARPOOL_E_PROTO, "a second challenge");
    if (!greet->auth)
        return fp_error(FARPOOL_E_REFUSED,
                        "node '%.80s' speaks only to those who have a key: give a key file",
                        msg->text);
    fp_auth_talk talk = {greet->client, msg->text, msg->boot_id, greet->nonce, msg->nonce};
    int rc = check_name(greet, msg->text); /* before it has any use of a proof */
    if (rc)
        return rc;
    rc = fp_auth_prove(greet->auth, FP_AUTH_SERVER, &talk, proof);
    if (rc)
        return rc;
    if (!fp_auth_same(proof, msg->proof))
        return fp_error(FARPOOL_E_REFUSED,
                        "node '%.80s' does not have the key of '%.80s': one of the two is not of "
                        "this cluster, or has an old key file",
                        msg->text, greet->client);
    rc = fp_auth_prove(greet->auth, FP_AUTH_CLIENT, &talk, msg->proof);
    if (rc)
        return rc;
    greet->proven = true;
    greet->boot_id = msg->boot_id;
    strcpy(greet->server, msg->text);
    msg->type = FP_MSG_PROOF;
    return 1;
}

static int take_ok(const fp_greet *greet, const fp_msg *msg)
{
    if (!greet->auth)
        return check_name(greet, msg->text);
    if (!greet->proven)
        return fp_error(FARPOOL_E_REFUSED,
                        "node '%.80s' has no secret by which it could be known, and there is a key "
                        "file here: give the node its --secret-file",
                        msg->text);
    if (msg->boot_id != greet->boot_id || strcmp(msg->text, greet->server) != 0)
        return fp_error(FARPOOL_E_PROTO, "node '%.80s' has become another one in the handshake",
                        greet->server);
    return 0;
}

int fp_greet_take(fp_greet *greet, fp_msg *msg)
{
    switch (msg->type) {
    case FP_MSG_CHALLENGE:
        return take_challenge(greet, msg);
    case FP_MSG_HELLO_OK:
        return take_ok(greet, msg);
    case FP_MSG_ERROR:
        return fp_error(msg->code < 0 ? msg->code : FARPOOL_E_PROTO, "%s", msg->text);
    default:
        return fp_error(FARPOOL_E_PROTO, "message type %d instead of an answer to HELLO",
                        (int)msg->type);
    }
}
