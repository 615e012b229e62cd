/* SPDX-License-Identifier: Apache-2.0 */
/* Secrets and keys for tests, and whether the nodes of a test shall have one. What fails ends the process. */
#ifndef FP_TESTS_LIB_SECRET_H
#define FP_TESTS_LIB_SECRET_H

#include "common/auth.h"

/* A secret of these bytes, or (from one) the key of `name` alone, through a file that is gone again; the caller's to
 * close. */
fp_auth *test_secret(uint8_t byte, const char *name);
fp_auth *test_key(const fp_auth *secret, const char *name);

/* Writes the text to a new file, mode 0600, whose path it makes. */
void test_secret_write(char path[64], const char *text);

/* $FARPOOL_TEST_SECRET, which is passed to the nodes that the test starts and to its pools; NULL: they have none. */
const char *test_secret_file(void);
const fp_auth *test_secret_auth(void); /* of it */

#endif
