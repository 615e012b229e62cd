/* SPDX-License-Identifier: Apache-2.0 */
/* What farpool-coordinator can be told, by file and flags. */
#ifndef FP_COORDINATOR_OPTIONS_H
#define FP_COORDINATOR_OPTIONS_H

#include <stdio.h>

#include "common/daemon/daemon.h"
#include "coordinator/server.h"

enum { FP_METASTORE_ROOM = 1024 };

typedef struct fp_coordinator_options {
    fp_daemon_options daemon;
    char metastore[FP_METASTORE_ROOM];
    char ca_file[4096], cert_file[4096], key_file[4096]; /* empty: none */
    char user[256], password[256];
    fp_settings settings;
    unsigned lease_ms;
} fp_coordinator_options;

/* Command line and the files it names. Errors: E_INVAL or E_SYS with a sentence. */
int fp_coordinator_options_parse(int argc, char **argv,
                                 fp_coordinator_options *options) FARPOOL_MUST_CHECK;
void fp_coordinator_options_help(FILE *out);

#endif
