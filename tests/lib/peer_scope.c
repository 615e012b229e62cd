/* SPDX-License-Identifier: Apache-2.0 */
/* What the conformance suite runs on: addresses, the simulated world behind sim's, and which tests have no meaning
 * for which transport. */
#include "tests/lib/peer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/error.h"

/* Every test that a transport does not take part in. Whatever is not here runs on all of them. */
static const struct {
    const char *test, *schemes, *reason;
} not_applicable[] = {
    {"pollers_in_threads", "sim", "a world and all its nodes belong to one thread"},
    {"pollers_beside_registration", "sim", "a world and all its nodes belong to one thread"},
    {"poller_fd_tells_of_messages", "sim",
     "a simulated poller has no descriptor: nothing happens but while somebody polls"},
    {"not_farpool", "verbs sim", "there is no byte stream into which a stranger could write"},
    {"silent_and_hasty", "verbs sim", "there is no connection without a completed handshake"},
    {"wrong_version", "verbs sim", "there is no handshake in bytes with a version to be wrong"},
    {"tcp_liars", "verbs shm sim", "the lies are frames of tcp's"},
    {"tcp_flood", "verbs shm sim", "the flood is of frames of tcp's"},
    {"shm_liars", "verbs tcp sim", "the lies are packets of shm's"},
    {"shm_descriptors_give_no_more_than_granted", "verbs tcp sim", "only shm passes descriptors"},
    {"shm_leaves_other_files_alone", "verbs tcp sim", "only shm listens on a file"},
    {"tcp_half_a_hello", "verbs shm sim", "the hello is tcp's"},
    {"an_unknown_host_is_named", "shm sim", "its addresses have no host names"},
    {"a_receiver_that_never_polls", "tcp shm sim",
     "only verbs breaks the connection when the receiver has taken nothing for about 2 s (N11)"},
    {"registered_but_not_shared", "verbs", "there the key alone is the capability"},
};

static char current[FP_NET_URI_MAX];
static fp_sim_world *world;

const char *peer_uri(void) { return current; }
fp_sim_world *peer_world(void) { return world; }

bool peer_scheme_is(const char *scheme)
{
    return !strncmp(current, scheme, strlen(scheme)) && current[strlen(scheme)] == ':';
}

void peer_applies(const char *test)
{
    for (size_t i = 0; i < sizeof not_applicable / sizeof not_applicable[0]; i++) {
        char schemes[64], *rest = schemes;
        if (strcmp(not_applicable[i].test, test) != 0)
            continue;
        snprintf(schemes, sizeof schemes, "%s", not_applicable[i].schemes);
        for (char *one; (one = strtok_r(rest, " ", &rest));) {
            if (!peer_scheme_is(one))
                continue;
            print_message("not applicable to %s: %s: %s\n", one, test, not_applicable[i].reason);
            skip();
        }
    }
}

static size_t peer_uris(const char **uris, size_t max)
{
    static char shm[64];
    const char *given = getenv("FARPOOL_TEST_URI");
    if (given && max) {
        uris[0] = given;
        return 1;
    }
    snprintf(shm, sizeof shm, "shm:///tmp/farpool-test-%d.sock", (int)getpid());
    const char *all[] = {"tcp://127.0.0.1:0", shm, "sim://peer"};
    size_t n = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0] && n < max; i++)
        uris[n++] = all[i];
    return n;
}

int peer_for_each(int (*group)(const char *name))
{
    const char *uris[8];
    size_t n = peer_uris(uris, 8);
    int failures = 0;
    alarm(300); /* a test that hangs fails */
    for (size_t i = 0; i < n; i++) {
        snprintf(current, sizeof current, "%s", uris[i]);
        if (peer_scheme_is("sim")) {
            const char *seed = getenv("SEED");
            fp_sim_config config = {.torn = true, .late = true};
            FP_ASSERT(!fp_sim_world_open(seed ? strtoull(seed, NULL, 10) : 1, &config, &world));
        }
        int failed = group(uris[i]);
        failures += failed;
        if (world && !failed) /* a test that has failed leaves its nodes open */
            fp_sim_world_close(world);
        world = NULL;
    }
    return failures;
}

int peer_net_open(const char *uri, const fp_net_options *options, fp_net **net)
{
    fp_net_options with_world = *options;
    with_world.world = world;
    return fp_net_open(uri, &with_world, net);
}
