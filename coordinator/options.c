/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/options.h"

#include <string.h>
#include <sys/stat.h>

#include "common/cluster/agent.h"
#include "common/error.h"

static int set_text(char *to, size_t room, const char *value)
{
    if (!value[0] || strlen(value) >= room)
        return fp_error(FARPOOL_E_INVAL, "it is empty, or longer than %zu bytes", room - 1);
    strcpy(to, value);
    return 0;
}

#define TEXT_SETTER(field)                                                                         \
    static int set_##field(void *target, const char *value)                                        \
    {                                                                                              \
        fp_coordinator_options *o = target;                                                        \
        return set_text(o->field, sizeof o->field, value);                                         \
    }
TEXT_SETTER(metastore)
TEXT_SETTER(ca_file)
TEXT_SETTER(cert_file)
TEXT_SETTER(key_file)

/* user:password, in a file that is not for everybody. */
static int set_user_file(void *target, const char *value)
{
    fp_coordinator_options *o = target;
    char line[600] = "";
    struct stat st;
    FILE *file = fopen(value, "re");
    if (!file)
        return fp_error_sys("reading %s", value);
    bool open_to_all = fstat(fileno(file), &st) || (st.st_mode & 077);
    bool some = fgets(line, sizeof line, file);
    fclose(file);
    if (open_to_all)
        return fp_error(FARPOOL_E_INVAL,
                        "%s: others than its owner may read or write it: chmod 600", value);
    line[strcspn(line, "\r\n")] = 0;
    char *colon = some ? strchr(line, ':') : NULL;
    if (!colon)
        return fp_error(FARPOOL_E_INVAL, "%s: its first line is not USER:PASSWORD", value);
    *colon = 0;
    int rc = set_text(o->user, sizeof o->user, line);
    return rc ? rc : set_text(o->password, sizeof o->password, colon + 1);
}

static int set_ms(unsigned *to, const char *value, uint64_t min)
{
    uint64_t number;
    int rc = fp_config_number(value, min, 86400000, &number);
    if (!rc)
        *to = (unsigned)number;
    return rc;
}

#define MS_SETTER(name, field, min)                                                                \
    static int set_##name(void *target, const char *value)                                         \
    {                                                                                              \
        fp_coordinator_options *o = target;                                                        \
        return set_ms(&o->field, value, min);                                                      \
    }
MS_SETTER(heartbeat_ms, settings.heartbeat_ms, 10)
MS_SETTER(grace_ms, settings.grace_ms, 10)
MS_SETTER(lost_ms, settings.lost_ms, 100)
MS_SETTER(replace_ms, settings.replace_ms, 100)
MS_SETTER(replace_storage_ms, settings.replace_storage_ms, 100)
MS_SETTER(lease_ms, lease_ms, 1000)

static const fp_option table[] = {
    FP_DAEMON_OPTION_LISTEN,
    {"metastore", "URI",
     "where the cluster's records are kept: etcd://HOST:PORT[,HOST:PORT...][/PREFIX]\n"
     "or sqlite:PATH; default sqlite:/var/lib/farpool/coordinator.db",
     set_metastore, false},
    {"etcd-user-file", "FILE", "its first line is USER:PASSWORD, for etcd", set_user_file, false},
    {"etcd-ca-file", "FILE", "TLS: etcd's members are checked against these certificates",
     set_ca_file, false},
    {"etcd-cert-file", "FILE", "our own certificate, if etcd asks for one", set_cert_file, false},
    {"etcd-key-file", "FILE", "and its key", set_key_file, false},
    {"heartbeat-ms", "N", "a node is heard of so often; default 250", set_heartbeat_ms, false},
    {"grace-ms", "N",
     "a node whose connection has broken may come back so long before it is\n"
     "taken for lost; default 100",
     set_grace_ms, false},
    {"lost-ms", "N", "a node that is silent so long is lost; default 2000", set_lost_ms, false},
    {"replace-ms", "N", "a memory node that is lost so long is replaced; default 5000",
     set_replace_ms, false},
    {"replace-storage-ms", "N", "a storage node that is lost so long is; default 60000",
     set_replace_storage_ms, false},
    {"lease-ms", "N",
     "of the coordinator who leads: when it dies, another one leads after so\n"
     "long, and up to 3 s more with etcd; default 2000",
     set_lease_ms, false},
    FP_DAEMON_OPTIONS,
};
enum { TABLE_COUNT = sizeof table / sizeof table[0] };

int fp_coordinator_options_parse(int argc, char **argv, fp_coordinator_options *options)
{
    memset(options, 0, sizeof *options);
    strcpy(options->metastore, "sqlite:/var/lib/farpool/coordinator.db");
    options->settings = (fp_settings){FP_HEARTBEAT_MS, FP_GRACE_MS, FP_LOST_MS, FP_REPLACE_MS,
                                      FP_REPLACE_STORAGE_MS};
    options->lease_ms = FP_LEASE_MS;
    int rc =
        fp_daemon_options_parse(argc, argv, table, TABLE_COUNT, "coordinator", &options->daemon);
    if (rc || options->daemon.help || options->daemon.version)
        return rc;
    if (options->settings.heartbeat_ms > FP_HEARTBEAT_MS_MAX)
        return fp_error(FARPOOL_E_INVAL, "heartbeat-ms (%u) must be %d at most",
                        options->settings.heartbeat_ms, FP_HEARTBEAT_MS_MAX);
    if (options->settings.lost_ms < 3 * options->settings.heartbeat_ms)
        return fp_error(FARPOOL_E_INVAL,
                        "lost-ms (%u) must be three times heartbeat-ms (%u) at least",
                        options->settings.lost_ms, options->settings.heartbeat_ms);
    for (unsigned i = 0; i < options->daemon.listen_count; i++)
        if (fp_daemon_is_everywhere(options->daemon.listen[i]))
            return fp_error(FARPOOL_E_INVAL,
                            "listen %s: a coordinator's address is told to nodes, who would ask "
                            "themselves; name one that leads to this machine",
                            options->daemon.listen[i]);
    return 0;
}

void fp_coordinator_options_help(FILE *out)
{
    fputs("usage: farpool-coordinator --listen URI [--metastore URI] [OPTION]...\n"
          "Assigns partitions to nodes, watches these, and fails over. Of several one leads.\n\n",
          out);
    fp_config_help(out, table, TABLE_COUNT);
    fputs("\nSIGTERM or SIGINT end it, SIGUSR1 logs what it knows. Exit status: 0 ended by a "
          "signal,\n"
          "1 failed, 2 wrong options or configuration.\n",
          out);
}
