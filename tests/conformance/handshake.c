/* SPDX-License-Identifier: Apache-2.0 */
/* Shows over every transport that a node with a secret serves those who prove their name, and nobody else: strangers, those with
 * another key, with messages of another handshake, with nonsense; and what belongs to whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/lib/secret.h"
#include "tests/lib/secret_node.h"

static fp_auth *nodes, *ann, *bob, *other; /* the secret, two keys of it, and another secret */
static secret_node node;
static talker t;

static int open_all(void **state)
{
    (void)state;
    nodes = test_secret(1, "all");
    ann = test_key(nodes, "ann");
    bob = test_key(nodes, "bob");
    other = test_secret(2, "ann");
    secret_node_start(&node, nodes);
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    secret_node_stop(&node);
    fp_auth_close(nodes);
    fp_auth_close(ann);
    fp_auth_close(bob);
    fp_auth_close(other);
    return 0;
}

/* A connection that a client may have who is somebody to the transport; all that comes then is wrong only in messages. */
static void connect_as(talker *who, const fp_auth *auth)
{
    assert_int_equal(talker_open(who, auth, node.uri), 0);
}

static void greet_as(talker *who, const fp_auth *auth)
{
    connect_as(who, auth);
    assert_int_equal(talker_greet(who, auth, NULL), 0);
}

static fp_msg hello_of(const char *name)
{
    fp_msg msg = {.type = FP_MSG_HELLO};
    strcpy(msg.text, name);
    memset(msg.nonce, 7, sizeof msg.nonce);
    return msg;
}

static fp_msg grant_of(uint64_t partition, uint64_t epoch)
{
    return (fp_msg){.type = FP_MSG_GRANT, .partition = partition, .epoch = epoch, .bytes = 1 << 20};
}

/* It is told once, and cut off when it goes on. */
static void is_refused_for_good(talker *who, int answer)
{
    assert_int_equal(answer, FARPOOL_E_REFUSED);
    assert_true(talker_ask(who, (fp_msg){.type = FP_MSG_USAGE}) < 0);
    talker_wait_closed(who);
}

/* ---- who may come ---------------------------------------------------------------------------- */

static void a_key_or_the_secret_is_enough(void **state)
{
    (void)state;
    fp_auth *both[] = {ann, nodes};
    for (int i = 0; i < 2; i++) {
        greet_as(&t, both[i]);
        assert_int_equal(t.msg.type, FP_MSG_HELLO_OK);
        assert_string_equal(t.msg.text, "secretnode");
        assert_int_equal(talker_ask(&t, (fp_msg){.type = FP_MSG_USAGE}), FP_MSG_USAGE_OK);
        talker_close(&t);
    }
}

static void a_stranger_is_refused(void **state)
{
    (void)state;
    int rc = talker_open(&t, NULL, node.uri);
    if (!rc)
        rc = talker_greet(&t, NULL, "ann");
    assert_int_equal(rc, FARPOOL_E_REFUSED);
    assert_non_null(strstr(farpool_errmsg(), "key file"));
    talker_close(&t);
}

static void nothing_is_answered_before_the_handshake(void **state)
{
    (void)state;
    for (int type = FP_MSG_HELLO + 1; type <= FP_MSG_LAST; type++) {
        connect_as(&t, ann);
        is_refused_for_good(
            &t, talker_ask(&t, (fp_msg){.type = (enum fp_msg_type)type, .partition = 1}));
        talker_close(&t);
    }
    connect_as(&t, ann);
    assert_int_equal(talker_ask(&t, hello_of("ann")), FP_MSG_CHALLENGE);
    is_refused_for_good(&t, talker_ask(&t, grant_of(1, 1)));
    talker_close(&t);
}

/* Over verbs a WRITE of nothing wants no key; elsewhere the transport refuses it. */
static void nobody_signals_before_the_handshake(void **state)
{
    (void)state;
    connect_as(&t, ann);
    const fp_net_op op = {.kind = FP_NET_WRITE_IMM, .imm = 1};
    assert_int_equal(fp_net_post(t.conn, &op, 1), 0);
    talker_wait_closed(&t);
    talker_close(&t);
}

/* The client learns first that the node has another secret; one that does not care is refused by the node. */
static void another_key_is_refused(void **state)
{
    (void)state;
    int rc = talker_open(&t, other, node.uri);
    if (!rc)
        rc = talker_greet(&t, other, NULL);
    assert_int_equal(rc, FARPOOL_E_REFUSED);
    talker_close(&t);

    connect_as(&t, ann);
    fp_msg hello = hello_of("ann");
    assert_int_equal(talker_ask(&t, hello), FP_MSG_CHALLENGE);
    fp_auth_talk talk = {"ann", t.msg.text, t.msg.boot_id, hello.nonce, t.msg.nonce};
    fp_msg proof = {.type = FP_MSG_PROOF};
    assert_int_equal(fp_auth_prove(other, FP_AUTH_CLIENT, &talk, proof.proof), 0);
    is_refused_for_good(&t, talker_ask(&t, proof));
    talker_close(&t);
}

/* bob's key does not make him ann. */
static void nobody_is_someone_else(void **state)
{
    (void)state;
    connect_as(&t, bob);
    fp_msg hello = hello_of("ann");
    assert_int_equal(talker_ask(&t, hello), FP_MSG_CHALLENGE);
    fp_auth_talk talk = {"bob", t.msg.text, t.msg.boot_id, hello.nonce, t.msg.nonce};
    fp_msg proof = {.type = FP_MSG_PROOF};
    assert_int_equal(fp_auth_prove(bob, FP_AUTH_CLIENT, &talk, proof.proof), 0);
    is_refused_for_good(&t, talker_ask(&t, proof));
    talker_close(&t);
    greet_as(&t, bob);
    assert_int_equal(talker_ask(&t, hello), FARPOOL_E_REFUSED); /* nor later */
    talker_close(&t);
}

/* Nothing tells a name that is used from one that is not. */
static void names_are_not_told(void **state)
{
    (void)state;
    connect_as(&t, ann);
    assert_int_equal(talker_ask(&t, hello_of("no such name")), FP_MSG_CHALLENGE);
    is_refused_for_good(&t, talker_ask(&t, (fp_msg){.type = FP_MSG_PROOF}));
    talker_close(&t);
}

static void a_handshake_cannot_be_replayed(void **state)
{
    (void)state;
    fp_msg hello, proof;
    fp_greet greet;
    connect_as(&t, ann);
    assert_int_equal(fp_greet_begin(&greet, ann, NULL, "", &t.msg), 0);
    hello = t.msg;
    assert_int_equal(talker_ask(&t, hello), FP_MSG_CHALLENGE);
    fp_msg challenge = t.msg;
    assert_int_equal(fp_greet_take(&greet, &t.msg), 1);
    proof = t.msg;
    assert_int_equal(talker_ask(&t, proof), FP_MSG_HELLO_OK);
    is_refused_for_good(&t, talker_ask(&t, proof)); /* nor twice on one connection */
    talker_close(&t);

    connect_as(&t, ann);
    assert_int_equal(talker_ask(&t, hello), FP_MSG_CHALLENGE);
    assert_memory_not_equal(t.msg.nonce, challenge.nonce, sizeof challenge.nonce);
    is_refused_for_good(&t, talker_ask(&t, proof));
    talker_close(&t);

    connect_as(&t, ann); /* nor is the node's own proof one of the client's */
    assert_int_equal(talker_ask(&t, hello), FP_MSG_CHALLENGE);
    proof = (fp_msg){.type = FP_MSG_PROOF};
    memcpy(proof.proof, t.msg.proof, sizeof proof.proof);
    is_refused_for_good(&t, talker_ask(&t, proof));
    talker_close(&t);

    /* And a node that replays its own part is no node. */
    connect_as(&t, ann);
    assert_int_equal(fp_greet_begin(&greet, ann, NULL, "", &t.msg), 0);
    t.msg = challenge;
    assert_int_equal(fp_greet_take(&greet, &t.msg), FARPOOL_E_REFUSED);
    talker_close(&t);
}

/* Who is dialled may pass all on to the node, over a connection of his own. Her proof is not made for the node when it is
 * him that she wants. */
static void a_handshake_cannot_be_passed_on(void **state)
{
    (void)state;
    fp_greet greet;
    connect_as(&t, bob);
    assert_int_equal(fp_greet_begin(&greet, ann, NULL, "bob", &t.msg), 0);
    assert_int_equal(talker_ask(&t, t.msg), FP_MSG_CHALLENGE);
    assert_int_equal(fp_greet_take(&greet, &t.msg), FARPOOL_E_NODE);
    assert_non_null(strstr(farpool_errmsg(), "'secretnode' answers there instead of 'bob'"));
    assert_int_equal(t.msg.type, FP_MSG_CHALLENGE); /* there is no proof */
    talker_close(&t);
}

/* The one that is wanted is spoken to, with a secret or without. */
static void an_address_may_name_the_node(void **state)
{
    (void)state;
    char uri[FP_NET_URI_MAX];
    for (int i = 0; i < 2; i++) {
        fp_auth *auth = i ? NULL : ann;
        assert_int_equal(fp_uri_with_name(node.uri, "secretnode", uri), 0);
        assert_int_equal(talker_open(&t, auth, uri), 0);
        assert_int_equal(talker_greet(&t, auth, "ann"), 0);
        talker_close(&t);
        assert_int_equal(fp_uri_with_name(node.uri, "othernode", uri), 0);
        assert_int_equal(talker_open(&t, auth, uri), 0);
        assert_int_equal(talker_greet(&t, auth, "ann"), FARPOOL_E_NODE);
        talker_close(&t);
        secret_node_stop(&node);
        secret_node_start(&node, NULL);
    }
}

static void nonsense_instead_of_a_proof(void **state)
{
    (void)state;
    static const char *const nonsense[] = {"", "no message at all", "FPw1 and then nothing"};
    for (int i = 0; i < 3; i++) {
        connect_as(&t, ann);
        assert_int_equal(talker_ask(&t, hello_of("ann")), FP_MSG_CHALLENGE);
        assert_int_equal(talker_say(&t, nonsense[i], strlen(nonsense[i])), FARPOOL_E_PROTO);
        is_refused_for_good(&t, FARPOOL_E_REFUSED);
        talker_close(&t);
    }
}

/* A node without a secret, or one that plays at having none, is none for who has a key. */
static void there_is_no_downgrade(void **state)
{
    (void)state;
    secret_node_stop(&node);
    secret_node_start(&node, NULL);
    int rc = talker_open(&t, ann, node.uri);
    if (!rc)
        rc = talker_greet(&t, ann, NULL);
    assert_int_equal(rc, FARPOOL_E_REFUSED);
    assert_non_null(strstr(farpool_errmsg(), "--secret-file"));
    talker_close(&t);
    assert_int_equal(talker_open(&t, NULL, node.uri), 0); /* others may come as ever */
    assert_int_equal(talker_greet(&t, NULL, "ann"), 0);
    talker_close(&t);
}

static void the_half_open_give_way(void **state)
{
    (void)state;
    peer_applies(__func__);
    enum { MORE = 20, COUNT = FP_SERVER_STRANGERS_MAX + MORE };
    talker honest;
    greet_as(&honest, ann);
    connect_as(&t, ann);
    static fp_conn *half[COUNT];
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(fp_net_connect(t.poller, node.uri, &half[i]), 0);
    talker_wait_closed(&t); /* the oldest */
    talker late;
    greet_as(&late, bob);
    talker_close(&late);
    assert_int_equal(talker_ask(&honest, (fp_msg){.type = FP_MSG_USAGE}), FP_MSG_USAGE_OK);
    assert_true(honest.msg.usage.connections <= FP_SERVER_STRANGERS_MAX + 2);
    for (int i = 0; i < COUNT; i++)
        fp_net_conn_close(half[i]);
    talker_close(&t);
    talker_close(&honest);
}

/* ---- what belongs to whom -------------------------------------------------------------------- */

static void a_partition_is_its_owners(void **state)
{
    (void)state;
    talker a, b;
    greet_as(&a, ann);
    greet_as(&b, bob);
    assert_int_equal(talker_ask(&a, grant_of(1, 1)), FP_MSG_EXTENTS);
    fp_rkey key = a.msg.extents[0];
    assert_int_equal(talker_read(&a, key), 0);
    fp_msg attach = {.type = FP_MSG_ATTACH, .partition = 1, .epoch = 1};
    fp_msg release = {.type = FP_MSG_RELEASE, .partition = 1, .epoch = 1};
    fp_msg ring = grant_of(1, 1);
    ring.use = FP_USE_RING;
    assert_int_equal(talker_ask(&b, attach), FARPOOL_E_REFUSED);
    assert_non_null(strstr(b.msg.text, "'ann'"));
    assert_int_equal(talker_ask(&b, release), FARPOOL_E_REFUSED);
    assert_int_equal(talker_ask(&b, ring), FARPOOL_E_REFUSED);
    greet_as(&t, ann); /* another connection of hers */
    assert_int_equal(talker_ask(&t, attach), FP_MSG_EXTENTS);
    assert_int_equal(talker_ask(&t, ring), FP_MSG_EXTENTS);
    talker_close(&t);
    talker_close(&a);
    talker_close(&b);
}

static void another_partitions_key_is_of_no_use(void **state)
{
    (void)state;
    talker a, b;
    peer_applies(
        "registered_but_not_shared"); /* the same, with a key that the node has told to another */
    greet_as(&a, ann);
    greet_as(&b, bob);
    assert_int_equal(talker_ask(&a, grant_of(1, 1)), FP_MSG_EXTENTS);
    assert_int_equal(talker_ask(&b, grant_of(2, 1)), FP_MSG_EXTENTS);
    assert_int_equal(talker_read(&b, b.msg.extents[0]), 0);
    assert_int_equal(talker_read(&b, a.msg.extents[0]), FARPOOL_E_ACCESS);
    assert_int_equal(talker_read(&a, a.msg.extents[0]), 0);
    talker_close(&a);
    talker_close(&b);
}

static void a_key_is_dead_after_fencing(void **state)
{
    (void)state;
    talker a, b;
    greet_as(&a, ann);
    greet_as(&b, bob);
    assert_int_equal(talker_ask(&a, grant_of(1, 1)), FP_MSG_EXTENTS);
    fp_rkey key = a.msg.extents[0];
    assert_int_equal(talker_ask(&b, grant_of(1, 2)), FP_MSG_EXTENTS);
    talker_wait_closed(&a);
    greet_as(&t, ann); /* she has the old epoch, and the old key */
    fp_msg attach = {.type = FP_MSG_ATTACH, .partition = 1, .epoch = 1};
    assert_int_equal(talker_ask(&t, attach), FARPOOL_E_FENCED);
    assert_int_equal(talker_ask(&t, grant_of(1, 1)), FARPOOL_E_FENCED);
    attach.epoch = 2; /* to know the new one does not help her */
    assert_int_equal(talker_ask(&t, attach), FARPOOL_E_REFUSED);
    assert_int_equal(talker_read(&t, key), FARPOOL_E_ACCESS);
    talker_close(&t);
    assert_int_equal(talker_read(&b, b.msg.extents[0]), 0);
    talker_close(&a);
    talker_close(&b);
}

static void tell_fence(uint64_t epoch, const char *owner)
{
    json_t *duties = json_pack("{s:[{s:i, s:I, s:s}]}", "fences", "partition", 1, "epoch",
                               (json_int_t)epoch, "owner", owner);
    assert_non_null(duties);
    fp_memnode_duties(node.node, duties);
    json_decref(duties);
}

/* A coordinator's fence takes a partition from one name and gives it to another one. */
static void a_fence_names_the_next_owner(void **state)
{
    (void)state;
    peer_applies(__func__);
    talker a, b;
    secret_node_stop(&node);
    node.in_cluster = true;
    secret_node_start(&node, nodes);
    node.in_cluster = false;
    greet_as(&a, ann);
    greet_as(&b, bob);
    assert_int_equal(talker_ask(&a, grant_of(1, 1)), FARPOOL_E_BUSY);
    tell_fence(1, "ann");
    assert_int_equal(talker_ask(&b, grant_of(1, 1)), FARPOOL_E_REFUSED);
    assert_int_equal(talker_ask(&a, grant_of(1, 1)), FP_MSG_EXTENTS);
    fp_rkey key = a.msg.extents[0];
    tell_fence(2, "bob");
    talker_wait_closed(&a);
    greet_as(&t, ann);
    assert_int_equal(talker_ask(&t, grant_of(1, 2)), FARPOOL_E_REFUSED);
    fp_msg attach = {.type = FP_MSG_ATTACH, .partition = 1, .epoch = 2};
    assert_int_equal(talker_ask(&t, attach), FARPOOL_E_REFUSED);
    assert_int_equal(talker_read(&t, key), FARPOOL_E_ACCESS);
    assert_int_equal(talker_ask(&b, grant_of(1, 2)), FP_MSG_EXTENTS);
    assert_int_equal(talker_read(&b, b.msg.extents[0]), 0);
    assert_int_equal(talker_ask(&b, attach), FP_MSG_EXTENTS);
    talker_close(&t);
    talker_close(&a);
    talker_close(&b);
}

static int group(const char *name)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_key_or_the_secret_is_enough, open_all, close_all),
        cmocka_unit_test_setup_teardown(a_stranger_is_refused, open_all, close_all),
        cmocka_unit_test_setup_teardown(nobody_signals_before_the_handshake, open_all, close_all),
        cmocka_unit_test_setup_teardown(nothing_is_answered_before_the_handshake, open_all,
                                        close_all),
        cmocka_unit_test_setup_teardown(another_key_is_refused, open_all, close_all),
        cmocka_unit_test_setup_teardown(nobody_is_someone_else, open_all, close_all),
        cmocka_unit_test_setup_teardown(names_are_not_told, open_all, close_all),
        cmocka_unit_test_setup_teardown(a_handshake_cannot_be_replayed, open_all, close_all),
        cmocka_unit_test_setup_teardown(a_handshake_cannot_be_passed_on, open_all, close_all),
        cmocka_unit_test_setup_teardown(an_address_may_name_the_node, open_all, close_all),
        cmocka_unit_test_setup_teardown(nonsense_instead_of_a_proof, open_all, close_all),
        cmocka_unit_test_setup_teardown(there_is_no_downgrade, open_all, close_all),
        cmocka_unit_test_setup_teardown(the_half_open_give_way, open_all, close_all),
        cmocka_unit_test_setup_teardown(a_partition_is_its_owners, open_all, close_all),
        cmocka_unit_test_setup_teardown(another_partitions_key_is_of_no_use, open_all, close_all),
        cmocka_unit_test_setup_teardown(a_key_is_dead_after_fencing, open_all, close_all),
        cmocka_unit_test_setup_teardown(a_fence_names_the_next_owner, open_all, close_all),
    };
    return cmocka_run_group_tests_name(name, tests, NULL, NULL);
}

int main(void) { return peer_for_each(group); }
