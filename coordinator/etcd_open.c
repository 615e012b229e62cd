/* SPDX-License-Identifier: Apache-2.0 */
/* An etcd cluster's address and members, and the token that stands for user and password. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/error.h"
#include "coordinator/etcd_inside.h"

/* ---- address --------------------------------------------------------------------------------- */

static int add_member(etcd_meta *meta, const char *text, size_t len, bool tls)
{
    char host[256];
    if (meta->member_count == ETCD_MEMBERS_MAX)
        return fp_error(FARPOOL_E_INVAL, "metastore: more than %d members in the address",
                        ETCD_MEMBERS_MAX);
    snprintf(host, sizeof host, "%.*s", (int)len, text);
    const char *colon = strrchr(host, ':');
    if (len >= sizeof host || !colon || colon == host || strlen(colon) < 2 || strlen(colon) > 6 ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || strpbrk(host, "@?#\\ \t"))
        return fp_error(FARPOOL_E_INVAL, "metastore: member '%.100s' is not HOST:PORT", host);
    char **member = &meta->members[meta->member_count];
    if (asprintf(member, "%s://%s", tls ? "https" : "http", host) < 0) {
        *member = NULL;
        return fp_error(FARPOOL_E_NOMEM, "metastore: no memory for its members");
    }
    meta->member_count++;
    return 0;
}

static int read_address(etcd_meta *meta, const char *rest, bool tls)
{
    size_t hosts = strcspn(rest, "/");
    const char *prefix = rest + hosts, *at = rest;
    while (*prefix == '/')
        prefix++;
    size_t len = strlen(prefix);
    while (len && prefix[len - 1] == '/')
        len--;
    if (len > FP_META_PREFIX_MAX)
        return fp_error(FARPOOL_E_INVAL, "metastore: its prefix is longer than %d bytes",
                        FP_META_PREFIX_MAX);
    if (len)
        snprintf(meta->prefix, sizeof meta->prefix, "%.*s/", (int)len, prefix);
    while (at < rest + hosts) {
        size_t n = strcspn(at, ",/");
        int rc = add_member(meta, at, n, tls);
        if (rc)
            return rc;
        at += n + (at[n] == ',');
    }
    return meta->member_count
               ? 0
               : fp_error(FARPOOL_E_INVAL, "metastore: its address names no member: "
                                           "etcd://HOST:PORT[,HOST:PORT...][/PREFIX]");
}

static int check_options(const fp_meta_options *options)
{
    if (!options->user != !options->password)
        return fp_error(FARPOOL_E_INVAL, "metastore: user and password go together");
    if (!options->cert_file != !options->key_file)
        return fp_error(FARPOOL_E_INVAL, "metastore: certificate and key go together");
    if (options->cert_file && !options->ca_file)
        return fp_error(FARPOOL_E_INVAL,
                        "metastore: a certificate of our own is for TLS, which wants a CA file");
    return 0;
}

int etcd_open(const char *rest, const fp_meta_options *options, fp_meta **out)
{
    int rc = check_options(options);
    if (rc)
        return rc;
    etcd_meta *meta = calloc(1, sizeof *meta);
    if (!meta)
        return fp_error(FARPOOL_E_NOMEM, "metastore: no memory");
    meta->ops_end = &meta->ops;
    const fp_http_options http = {.ca_file = options->ca_file,
                                  .cert_file = options->cert_file,
                                  .key_file = options->key_file};
    rc = read_address(meta, rest, options->ca_file);
    if (!rc && options->user) {
        meta->user = strdup(options->user);
        meta->password = strdup(options->password);
        meta->token.body = meta->user && meta->password ? etcd_token_body(meta) : NULL;
        if (!meta->token.body)
            rc = fp_error(FARPOOL_E_INVAL, "metastore: user and password have to be UTF-8");
    }
    if (!rc)
        rc = fp_http_open(&http, &meta->http);
    if (rc) {
        etcd_close(&meta->base);
        return rc;
    }
    *out = &meta->base;
    return 0;
}

void etcd_close(fp_meta *base)
{
    etcd_meta *meta = (etcd_meta *)base;
    fp_http_cancel(&meta->token.call);
    if (meta->http)
        fp_http_close(meta->http);
    for (unsigned i = 0; i < meta->member_count; i++)
        free(meta->members[i]);
    free(meta->token.body);
    free(meta->user);
    free(meta->password);
    free(meta);
}

/* ---- members --------------------------------------------------------------------------------- */

void etcd_leave_member(etcd_meta *meta, unsigned member)
{
    if (meta->member == member)
        meta->member = (member + 1) % meta->member_count;
}

uint64_t etcd_next_try(const etcd_meta *meta, unsigned tries)
{
    return fp_now_ns() + (tries % meta->member_count ? 0 : ETCD_RETRY_NS);
}

/* ---- token ----------------------------------------------------------------------------------- */

static void token_done(fp_http_call *call)
{
    etcd_meta *meta = call->user;
    unsigned member = meta->token.member;
    int code = 0;
    char message[200];
    meta->token.running = false;
    if (!call->result && call->status == 200) {
        code = etcd_read_token(meta, call->answer, call->got);
        if (!code)
            meta->token.number = ++meta->token.made;
    } else if (!call->result) {
        etcd_message(call->answer, call->got, message);
        if (etcd_judge(meta, meta->members[member], call->status, message, &code) != ETCD_DONE)
            code = FARPOOL_E_NODE;
    } else {
        code = fp_error(FARPOOL_E_NODE, "%s: %s", meta->members[member], call->words);
    }
    fp_http_cancel(call);
    if (!code)
        return;
    /* Words first: whoever waits is told. One that did not answer is left for another. */
    meta->token.start_ns = fp_now_ns() + ETCD_RETRY_NS;
    etcd_leave_member(meta, member);
    etcd_token_failed(meta, code);
}

bool etcd_have_token(etcd_meta *meta)
{
    if (!meta->user || meta->token.number)
        return true;
    if (meta->token.running || fp_now_ns() < meta->token.start_ns)
        return false;
    meta->token.member = meta->member;
    snprintf(meta->token.url, sizeof meta->token.url, "%s/v3/auth/authenticate",
             meta->members[meta->member]);
    meta->token.call = (fp_http_call){.url = meta->token.url,
                                      .body = meta->token.body,
                                      .len = strlen(meta->token.body),
                                      .timeout_ms = meta->base.options.attempt_timeout_ms,
                                      .connect_ms = meta->base.options.attempt_timeout_ms,
                                      .done = token_done,
                                      .user = meta};
    if (fp_http_start(meta->http, &meta->token.call))
        meta->token.start_ns = fp_now_ns() + ETCD_RETRY_NS;
    else
        meta->token.running = true;
    return false;
}

const char *etcd_token(const etcd_meta *meta)
{
    return meta->token.number ? meta->token.text : NULL;
}

void etcd_drop_token(etcd_meta *meta, uint64_t number)
{
    if (meta->token.number == number)
        meta->token.number = 0;
}
