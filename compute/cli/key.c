/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cli/key.h"

#include <stdio.h>

#include "common/auth.h"

int cli_key_print(const char *secret_file, const char *name)
{
    char text[FP_AUTH_TEXT_MAX + 1];
    fp_auth *secret;
    int rc = fp_auth_open(secret_file, name, &secret);
    if (rc)
        return rc;
    rc = fp_auth_key_text(secret, name, text);
    if (!rc)
        puts(text);
    fp_auth_close(secret);
    return rc;
}
