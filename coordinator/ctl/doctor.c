/* SPDX-License-Identifier: Apache-2.0 */
/* The doctor's report, and how he reads /proc and /sys. */
#include "coordinator/ctl/doctor.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "coordinator/ctl/doctor_inside.h"

static const char *const states[] = {"ok", "warn", "fail"};

/* ---- the report ------------------------------------------------------------------------------ */

void fp_doctor_add(fp_doctor *doctor, const char *name, enum fp_doctor_state state,
                   const char *mend, const char *format, ...)
{
    char found[600];
    va_list args;
    va_start(args, format);
    vsnprintf(found, sizeof found, format, args);
    va_end(args);
    json_t *check = json_pack("{s:s, s:s}", "name", name, "state", states[state]);
    /* Names of files and devices need not be UTF-8. */
    json_t *text = json_string(found);
    json_t *told = text ? text : json_string("something that is not UTF-8");
    if (!check || json_object_set_new(check, "found", told) ||
        (mend && json_object_set_new(check, "mend", json_string(mend))) ||
        json_array_append(doctor->checks, check)) {
        json_decref(doctor->checks);
        doctor->checks = NULL;
    }
    json_decref(check);
    doctor->counts[state]++;
}

int fp_doctor_run(const fp_doctor_options *options, json_t **report)
{
    fp_doctor doctor = {
        .options = options,
        .probes = options->probes ? options->probes : &fp_doctor_machine,
        .checks = json_array(),
    };
    fp_doctor_check_memory(&doctor);
    fp_doctor_check_kernel(&doctor);
    fp_doctor_check_rdma(&doctor);
    fp_doctor_check_volume(&doctor);
    *report = json_pack(
        "{s:o, s:i, s:i, s:i}", "checks", doctor.checks, "ok", (int)doctor.counts[FP_DOCTOR_OK],
        "warn", (int)doctor.counts[FP_DOCTOR_WARN], "fail", (int)doctor.counts[FP_DOCTOR_FAIL]);
    return *report ? 0 : fp_error(FARPOOL_E_NOMEM, "no memory for the doctor's report");
}

static const char *text_of(const json_t *check, const char *key)
{
    const char *text = json_string_value(json_object_get(check, key));
    return text ? text : "";
}

void fp_doctor_print(const json_t *report, FILE *out)
{
    size_t i;
    const json_t *check;
    json_array_foreach(json_object_get(report, "checks"), i, check)
    {
        fprintf(out, "%-4s  %-14s  %s\n", text_of(check, "state"), text_of(check, "name"),
                text_of(check, "found"));
        if (*text_of(check, "mend"))
            fprintf(out, "      %-14s  -> %s\n", "", text_of(check, "mend"));
    }
    fprintf(out,
            "%" JSON_INTEGER_FORMAT " ok, %" JSON_INTEGER_FORMAT
            " to be looked at, %" JSON_INTEGER_FORMAT " to be mended\n",
            json_integer_value(json_object_get(report, "ok")),
            json_integer_value(json_object_get(report, "warn")),
            json_integer_value(json_object_get(report, "fail")));
}

/* ---- files ----------------------------------------------------------------------------------- */

bool fp_doctor_read(const fp_doctor *doctor, const char *path, char *text, size_t size)
{
    char full[PATH_MAX];
    const char *root = doctor->options->root ? doctor->options->root : "";
    if (snprintf(full, sizeof full, "%s%s", root, path) >= (int)sizeof full)
        return false;
    FILE *file = fopen(full, "re");
    if (!file)
        return false;
    size_t len = fread(text, 1, size - 1, file);
    bool good = !ferror(file);
    fclose(file);
    text[len] = 0;
    if (len && text[len - 1] == '\n')
        text[len - 1] = 0;
    return good;
}

bool fp_doctor_read_number(const fp_doctor *doctor, const char *path, uint64_t *number)
{
    char text[64];
    return fp_doctor_read(doctor, path, text, sizeof text) && sscanf(text, "%" SCNu64, number) == 1;
}

/* What stands behind a name at the beginning of a line. */
static const char *behind(const char *text, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n'), line += line != NULL)
        if (!strncmp(line, name, len))
            return line + len;
    return NULL;
}

bool fp_doctor_meminfo(const fp_doctor *doctor, const char *key, uint64_t *bytes)
{
    char text[8192], name[64];
    snprintf(name, sizeof name, "%s:", key);
    if (!fp_doctor_read(doctor, "/proc/meminfo", text, sizeof text))
        return false;
    const char *rest = behind(text, name);
    if (!rest || sscanf(rest, " %" SCNu64 " kB", bytes) != 1)
        return false;
    *bytes *= 1024;
    return true;
}

static uint64_t limit_of(const char *text)
{
    return !strcmp(text, "unlimited") ? UINT64_MAX : strtoull(text, NULL, 10);
}

bool fp_doctor_limit(const fp_doctor *doctor, const char *name, uint64_t *soft, uint64_t *hard)
{
    char text[4096], first[32], second[32];
    if (!fp_doctor_read(doctor, "/proc/self/limits", text, sizeof text))
        return false;
    const char *rest = behind(text, name);
    if (!rest || sscanf(rest, " %31s %31s", first, second) != 2)
        return false;
    *soft = limit_of(first);
    *hard = limit_of(second);
    return true;
}
