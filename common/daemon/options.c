/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/daemon/daemon.h"
#include "common/error.h"

int fp_daemon_check_address(const char *value)
{
    fp_uri parsed;
    int rc = fp_uri_parse(value, &parsed);
    if (rc)
        return rc;
    if (strcmp(parsed.scheme, "verbs") != 0 && strcmp(parsed.scheme, "tcp") != 0 &&
        strcmp(parsed.scheme, "shm") != 0)
        return fp_error(FARPOOL_E_INVAL, "'%.200s': unknown transport (verbs, tcp, shm)", value);
    return 0;
}

static int set_path(char *path, size_t room, const char *value)
{
    if (!value[0] || strlen(value) >= room)
        return fp_error(FARPOOL_E_INVAL, "the path is empty or too long");
    strcpy(path, value);
    return 0;
}

static int set_label(char label[FP_WIRE_TEXT_MAX + 1], const char *value)
{
    if (!value[0] || strlen(value) > FP_WIRE_TEXT_MAX)
        return fp_error(FARPOOL_E_INVAL, "a name has 1 to %d bytes", FP_WIRE_TEXT_MAX);
    strcpy(label, value);
    return 0;
}

int fp_daemon_set_listen(void *target, const char *value)
{
    fp_daemon_options *o = target;
    char named[FP_NET_URI_MAX];
    int rc = fp_daemon_check_address(value);
    if (!rc)
        rc = fp_uri_with_name(value, "x", named); /* who listens names nobody */
    if (rc)
        return rc;
    if (o->listen_from_file) {
        o->listen_from_file = false;
        o->listen_count = 0;
    }
    if (o->listen_count == FP_SERVER_LISTENERS_MAX)
        return fp_error(FARPOOL_E_INVAL, "more than %d addresses", FP_SERVER_LISTENERS_MAX);
    strcpy(o->listen[o->listen_count++], value); /* its length was checked by fp_uri_parse */
    return 0;
}

int fp_daemon_set_name(void *target, const char *value)
{
    return set_label(((fp_daemon_options *)target)->name, value);
}

int fp_daemon_set_http(void *target, const char *value)
{
    fp_daemon_options *o = target;
    int rc = fp_httpd_check_address(value);
    if (!rc)
        strcpy(o->http, value); /* its length was checked */
    return rc;
}

int fp_daemon_set_log_level(void *target, const char *value)
{
    fp_daemon_options *o = target;
    if (!fp_log_level_parse(value, &o->log_level))
        return fp_error(FARPOOL_E_INVAL, "'%.60s' is not one of error, warn, info, debug", value);
    return 0;
}

int fp_daemon_set_ready_fd(void *target, const char *value)
{
    fp_daemon_options *o = target;
    uint64_t fd;
    int rc = fp_config_number(value, 1, 1 << 20, &fd);
    if (!rc && fcntl((int)fd, F_GETFD) < 0)
        rc = fp_error(FARPOOL_E_INVAL, "descriptor %s is not open", value);
    if (!rc)
        o->ready_fd = (int)fd;
    return rc;
}

int fp_daemon_set_ready_file(void *target, const char *value)
{
    fp_daemon_options *o = target;
    return set_path(o->ready_file, sizeof o->ready_file - 16, value);
}

int fp_daemon_set_secret_file(void *target, const char *value)
{
    fp_daemon_options *o = target;
    return set_path(o->secret_file, sizeof o->secret_file, value);
}

/* ---- of nodes in a cluster ------------------------------------------------------------------- */

/* The addresses are checked by who speaks with them. */
int fp_daemon_set_coordinators(void *target, const char *value)
{
    fp_daemon_options *o = target;
    if (!value[0] || strlen(value) >= sizeof o->coordinators)
        return fp_error(FARPOOL_E_INVAL, "the list is empty or too long");
    strcpy(o->coordinators, value);
    /* Told now, not when a node has mapped all of its memory. */
    for (const char *at = value;; at++) {
        char uri[FP_NET_URI_MAX];
        size_t len;
        int rc = fp_uri_first(at, uri, &len);
        if (rc || !at[len])
            return rc;
        at += len;
    }
}

int fp_daemon_set_zone(void *target, const char *value)
{
    return set_label(((fp_daemon_options *)target)->zone, value);
}

int fp_daemon_set_rack(void *target, const char *value)
{
    return set_label(((fp_daemon_options *)target)->rack, value);
}

int fp_daemon_set_host(void *target, const char *value)
{
    return set_label(((fp_daemon_options *)target)->host, value);
}

bool fp_daemon_is_everywhere(const char *uri_text)
{
    fp_uri uri;
    return !fp_uri_parse(uri_text, &uri) &&
           (!strcmp(uri.host, "0.0.0.0") || !strcmp(uri.host, "::"));
}

static json_t *address_for_others(const char *bound, const char *host)
{
    fp_uri uri;
    if (!fp_daemon_is_everywhere(bound) || fp_uri_parse(bound, &uri) || !uri.port)
        return json_string(bound);
    return json_sprintf("%s://%s:%u", uri.scheme, host, (unsigned)uri.port);
}

json_t *fp_daemon_card(const fp_daemon_options *options, const char *role, const fp_server *server,
                       uint64_t bytes)
{
    char boot_id[17];
    snprintf(boot_id, sizeof boot_id, "%016" PRIx64, server->boot_id);
    json_t *uris = json_array();
    for (unsigned i = 0; i < server->listener_count; i++)
        json_array_append_new(
            uris, address_for_others(fp_net_listener_uri(server->listeners[i]), options->host));
    return json_pack("{s:s,s:s,s:s,s:o,s:s,s:s,s:s,s:I}", "role", role, "name", options->name,
                     "boot_id", boot_id, "uris", uris, "zone", options->zone, "rack", options->rack,
                     "host", options->host, "bytes", (json_int_t)bytes);
}

/* ---- the command line ------------------------------------------------------------------------ */

static void before_flags(void *target)
{
    fp_daemon_options *o = target;
    o->listen_from_file = o->listen_count > 0;
}

int fp_daemon_options_parse(int argc, char **argv, const fp_option *table, size_t count,
                            const char *name, fp_daemon_options *options)
{
    options->ready_fd = -1;
    options->log_level = FP_LOG_INFO;
    if (gethostname(options->name, sizeof options->name - 1) || !options->name[0])
        strcpy(options->name, name);
    strcpy(options->host, options->name);
    int rc = fp_config_args(argc, argv, table, count, "config", before_flags, options,
                            &options->help, &options->version);
    if (rc || options->help || options->version)
        return rc;
    if (!options->listen_count)
        return fp_error(FARPOOL_E_INVAL,
                        "no address to serve: give --listen; --help lists the options");
    if (options->secret_file[0])
        rc = fp_auth_open(options->secret_file, options->name, &options->auth);
    return rc;
}
