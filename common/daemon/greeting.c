/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The server's side of the handshake (docs/protocol.md, Handshake). Whoever fails it is told so, may say nothing more, and
 * stays until he goes or room is needed: to cut him off now could take him the sentence that says why.
 *
 *   SILENT ──HELLO──► CHALLENGED ──PROOF──► DONE        a server that has the secret
 *   SILENT ──HELLO──► DONE                              one that has none
 *      └──────────────────┴── anything else ──► REFUSED
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/daemon/server.h"
#include "common/error.h"
#include "common/log.h"

/* For farpool_errmsg(). */
static void refuse(fp_server *server, fp_server_client *client, int code)
{
    if (client->greeting == FP_GREETING_REFUSED) {
        fp_log(FP_LOG_DEBUG, "%s: cut off: it goes on", fp_net_conn_peer(client->conn));
        fp_server_drop(server, client);
        return;
    }
    fp_log(FP_LOG_WARN, "%s: refused: %s", fp_net_conn_peer(client->conn), farpool_errmsg());
    client->greeting = FP_GREETING_REFUSED;
    fp_server_refuse(server, client, server->request.request, code);
}

static void welcome(fp_server *server, fp_server_client *client)
{
    client->greeting = FP_GREETING_DONE;
    client->authenticated = server->auth != NULL;
    server->answer.type = FP_MSG_HELLO_OK;
    server->answer.boot_id = server->boot_id;
    strcpy(server->answer.text, server->name);
    fp_server_answer(server, client, server->request.request);
}

static fp_auth_talk talk(const fp_server *server, const fp_server_client *client)
{
    return (fp_auth_talk){client->name, server->name, server->boot_id, client->nonces[0],
                          client->nonces[1]};
}

static void challenge(fp_server *server, fp_server_client *client)
{
    memcpy(client->nonces[0], server->request.nonce, FP_AUTH_BYTES);
    int rc = fp_auth_random(client->nonces[1]);
    fp_auth_talk about = talk(server, client);
    if (!rc)
        rc = fp_auth_prove(server->auth, FP_AUTH_SERVER, &about, server->answer.proof);
    if (rc) {
        refuse(server, client, rc);
        return;
    }
    client->greeting = FP_GREETING_CHALLENGED;
    memcpy(server->answer.nonce, client->nonces[1], FP_AUTH_BYTES);
    server->answer.type = FP_MSG_CHALLENGE;
    server->answer.boot_id = server->boot_id;
    strcpy(server->answer.text, server->name);
    fp_server_answer(server, client, server->request.request);
}

static void take_hello(fp_server *server, fp_server_client *client)
{
    strcpy(client->name, server->request.text);
    if (server->auth)
        challenge(server, client);
    else
        welcome(server, client);
}

static void take_proof(fp_server *server, fp_server_client *client)
{
    uint8_t proof[FP_AUTH_BYTES];
    fp_auth_talk about = talk(server, client);
    int rc = fp_auth_prove(server->auth, FP_AUTH_CLIENT, &about, proof);
    if (!rc && !fp_auth_same(proof, server->request.proof))
        rc = fp_error(FARPOOL_E_REFUSED,
                      "'%.80s' has not proven to be that: its key is not of this cluster, or the "
                      "proof is of another connection",
                      client->name);
    if (rc)
        refuse(server, client, rc);
    else
        welcome(server, client);
}

void fp_server_greet(fp_server *server, fp_server_client *client)
{
    enum fp_msg_type type = server->request.type;
    bool again = client->greeting == FP_GREETING_DONE && !server->auth; /* by another name */
    if (type == FP_MSG_HELLO && (again || client->greeting == FP_GREETING_SILENT)) {
        take_hello(server, client);
    } else if (type == FP_MSG_PROOF && client->greeting == FP_GREETING_CHALLENGED) {
        take_proof(server, client);
    } else if (server->auth) {
        refuse(server, client,
               fp_error(FARPOOL_E_REFUSED,
                        "a message of type %d has no place in the handshake: this node speaks only "
                        "to those who have a key",
                        (int)type));
    } else {
        fp_server_refuse(server, client, server->request.request,
                         fp_error(FARPOOL_E_PROTO, "the first message must be HELLO, and PROOF "
                                                   "is for nodes that have a secret"));
    }
}

void fp_server_greet_nonsense(fp_server *server, fp_server_client *client, int code)
{
    server->request.request = 0;
    refuse(server, client, code);
}

void fp_server_make_room(fp_server *server)
{
    fp_server_client *oldest = NULL;
    uint32_t strangers = 0;
    for (fp_server_client *client = server->clients; client; client = client->next) {
        if (client->greeting == FP_GREETING_DONE)
            continue;
        strangers++;
        oldest = client; /* new ones stand in front */
    }
    if (strangers < FP_SERVER_STRANGERS_MAX)
        return;
    fp_log(FP_LOG_WARN,
           "%s: cut off: %" PRIu32 " connections have not greeted, and it is the oldest",
           fp_net_conn_peer(oldest->conn), strangers);
    fp_server_drop(server, oldest);
}
