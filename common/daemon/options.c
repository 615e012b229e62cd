/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/daemon/daemon.h"
#include "common/error.h"

int fp_daemon_set_listen(void *target, const char *value)
{
    fp_daemon_options *o = target;
    fp_uri parsed;
    int rc = fp_uri_parse(value, &parsed);
    if (rc)
        return rc;
    if (strcmp(parsed.scheme, "verbs") != 0 && strcmp(parsed.scheme, "tcp") != 0 &&
        strcmp(parsed.scheme, "shm") != 0)
        return fp_error(FARPOOL_E_INVAL, "'%.200s': unknown transport (verbs, tcp, shm)", value);
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
    fp_daemon_options *o = target;
    if (!value[0] || strlen(value) > FP_WIRE_TEXT_MAX)
        return fp_error(FARPOOL_E_INVAL, "a name has 1 to %d bytes", FP_WIRE_TEXT_MAX);
    strcpy(o->name, value);
    return 0;
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
    if (!value[0] || strlen(value) >= sizeof o->ready_file - 16)
        return fp_error(FARPOOL_E_INVAL, "the path is empty or too long");
    strcpy(o->ready_file, value);
    return 0;
}

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
    int rc = fp_config_args(argc, argv, table, count, "config", before_flags, options,
                            &options->help, &options->version);
    if (rc || options->help || options->version)
        return rc;
    if (!options->listen_count)
        return fp_error(FARPOOL_E_INVAL,
                        "no address to serve: give --listen; --help lists the options");
    return 0;
}

int fp_daemon_start(const char *program, int rc, const fp_daemon_options *options,
                    void (*help)(FILE *out))
{
    if (rc) {
        fprintf(stderr, "%s: %s\n", program, farpool_errmsg());
        return 2;
    }
    if (options->help) {
        help(stdout);
        return 0;
    }
    if (options->version) {
        printf("%s %d.%d.%d\n", program, FARPOOL_VERSION_MAJOR, FARPOOL_VERSION_MINOR,
               FARPOOL_VERSION_PATCH);
        return 0;
    }
    fp_log_set_level(options->log_level);
    return -1;
}
