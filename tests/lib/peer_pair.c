/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/peer_pair.h"

peer server;
client c;

int peer_pair_open(void **state)
{
    (void)state;
    peer_start(&server, peer_uri());
    client_open(&c, &server, server.uri);
    return 0;
}

int peer_pair_close(void **state)
{
    (void)state;
    client_close(&c);
    peer_stop(&server);
    return 0;
}
