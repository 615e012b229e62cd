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
#include "tests/lib/secret.h"

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
    {"tcp_liars", "verbs shm sim tls", "the lies are frames of tcp's, as they are without TLS"},
    {"tcp_flood", "verbs shm sim tls", "the flood is of frames of tcp's, as they are without TLS"},
    {"tcp_crowd", "verbs shm sim", "its limit is tcp's"},
    {"shm_liars", "verbs tcp sim", "the lies are packets of shm's"},
    {"shm_descriptors_give_no_more_than_granted", "verbs tcp sim", "only shm passes descriptors"},
    {"shm_leaves_other_files_alone", "verbs tcp sim", "only shm listens on a file"},
    {"tcp_half_a_hello", "verbs shm sim", "the hello is tcp's"},
    {"an_unknown_host_is_named", "shm sim", "its addresses have no host names"},
    {"a_receiver_that_never_polls", "tcp shm sim",
     "only verbs breaks the connection when the receiver has taken nothing for about 2 s (N11)"},
    {"the_half_open_give_way", "verbs",
     "soft-RoCE's completion queues have room for fewer connections of one poller"},
    {"a_fence_names_the_next_owner", "verbs tcp shm",
     "the test tells the node its duties itself: nobody else may drive it"},
    {"registered_but_not_shared", "verbs", "there the key alone is the capability"},
};

static char current[FP_NET_URI_MAX];
static fp_sim_world *world;
static fp_auth *secret; /* of nodes that speak TLS */

static void forget_secret(void) { fp_auth_close(secret); }

static void make_secret(void)
{
    secret = test_secret(1, "peer");
    atexit(forget_secret);
}

const char *peer_uri(void) { return current; }
fp_sim_world *peer_world(void) { return world; }

bool peer_scheme_is(const char *scheme)
{
    return !strncmp(current, scheme, strlen(scheme)) && current[strlen(scheme)] == ':';
}

bool peer_tls(void) { return getenv("FARPOOL_TEST_TLS") != NULL; }

void peer_applies(const char *test)
{
    for (size_t i = 0; i < sizeof not_applicable / sizeof not_applicable[0]; i++) {
        char schemes[64], *rest = schemes;
        if (strcmp(not_applicable[i].test, test) != 0)
            continue;
        snprintf(schemes, sizeof schemes, "%s", not_applicable[i].schemes);
        for (char *one; (one = strtok_r(rest, " ", &rest));) {
            if (!peer_scheme_is(one) && !(peer_tls() && !strcmp(one, "tls")))
                continue;
            print_message("not applicable to %s: %s: %s\n", one, test, not_applicable[i].reason);
            skip();
        }
    }
}

typedef struct variant {
    const char *name, *uri;
    bool tls;
} variant;

static size_t variants(variant *list, size_t max)
{
    static char shm[64];
    const char *given = getenv("FARPOOL_TEST_URI");
    snprintf(shm, sizeof shm, "shm:///tmp/farpool-test-%d.sock", (int)getpid());
    const variant one = {given, given, peer_tls()};
    const variant all[] = {
        {"tcp", "tcp://127.0.0.1:0", false},
        {"tcp with TLS", "tcp://127.0.0.1:0", true},
        {"shm", shm, false},
        {"sim", "sim://peer", false},
    };
    size_t n = given ? 1 : sizeof all / sizeof all[0];
    FP_ASSERT(n <= max);
    memcpy(list, given ? &one : all, n * sizeof *list);
    return n;
}

int peer_for_each(int (*group)(const char *name))
{
    variant list[4];
    size_t n = variants(list, sizeof list / sizeof list[0]);
    int failures = 0;
    alarm(900); /* a test that hangs fails */
    for (size_t i = 0; i < n; i++) {
        snprintf(current, sizeof current, "%s", list[i].uri);
        if (list[i].tls)
            setenv("FARPOOL_TEST_TLS", "1", 1); /* for victims, too */
        else
            unsetenv("FARPOOL_TEST_TLS");
        if (peer_scheme_is("sim")) {
            const char *seed = getenv("SEED");
            fp_sim_config config = {.torn = true, .late = true};
            FP_ASSERT(!fp_sim_world_open(seed ? strtoull(seed, NULL, 10) : 1, &config, &world));
        }
        int failed = group(list[i].name);
        failures += failed;
        if (world && !failed) /* a test that has failed leaves its nodes open */
            fp_sim_world_close(world);
        world = NULL;
    }
    return failures;
}

int peer_net_open(const char *uri, const fp_net_options *options, fp_net **net)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    fp_net_options with_world = *options;
    with_world.world = world;
    if (peer_tls()) {
        pthread_once(&once, make_secret);
        with_world.auth = secret;
    }
    return fp_net_open(uri, &with_world, net);
}
