/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the doctor: doctor.c (the report, reading files), doctor_memory.c, doctor_kernel.c and doctor_devices.c (the
 * checks), doctor_probe.c (what is tried on the machine). */
#ifndef FP_COORDINATOR_CTL_DOCTOR_INSIDE_H
#define FP_COORDINATOR_CTL_DOCTOR_INSIDE_H

#include "coordinator/ctl/doctor.h"

enum fp_doctor_state { FP_DOCTOR_OK, FP_DOCTOR_WARN, FP_DOCTOR_FAIL };

typedef struct fp_doctor {
    const fp_doctor_options *options;
    const fp_doctor_probes *probes;
    json_t *checks; /* NULL: no memory */
    unsigned counts[FP_DOCTOR_FAIL + 1];
} fp_doctor;

extern const fp_doctor_probes fp_doctor_machine;

/* Adds a check. mend: in one line, or NULL. */
void fp_doctor_add(fp_doctor *doctor, const char *name, enum fp_doctor_state state,
                   const char *mend, const char *format, ...) __attribute__((format(printf, 5, 6)));

/* The beginning of a file below root, as a string without the newline at its end. False: it cannot be read. */
bool fp_doctor_read(const fp_doctor *doctor, const char *path, char *text, size_t size);
/* A file that holds a number. */
bool fp_doctor_read_number(const fp_doctor *doctor, const char *path, uint64_t *number);
/* The number behind "KEY:" in /proc/meminfo, in bytes. */
bool fp_doctor_meminfo(const fp_doctor *doctor, const char *key, uint64_t *bytes);
/* Soft and hard limit of this name in /proc/self/limits; UINT64_MAX: none. */
bool fp_doctor_limit(const fp_doctor *doctor, const char *name, uint64_t *soft, uint64_t *hard);

void fp_doctor_check_memory(fp_doctor *doctor);
void fp_doctor_check_kernel(fp_doctor *doctor);
void fp_doctor_check_rdma(fp_doctor *doctor);
void fp_doctor_check_volume(fp_doctor *doctor);

#endif
