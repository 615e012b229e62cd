/* SPDX-License-Identifier: Apache-2.0 */
/* Key files for those who shall not have the cluster's secret. */
#ifndef FP_CLI_KEY_H
#define FP_CLI_KEY_H

#include "farpool.h"

/* Prints the key of that name, made of the secret in a file. E_INVAL, E_SYS, E_NOMEM. */
int cli_key_print(const char *secret_file, const char *name) FARPOOL_MUST_CHECK;

#endif
