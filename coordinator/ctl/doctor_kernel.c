/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of the kernel, of limits that are not memory's, and of clocks. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "coordinator/ctl/doctor_inside.h"

enum { FILES_MIN = 16384 };

static void check_version(fp_doctor *doctor)
{
    char text[128] = "?";
    unsigned major = 0, minor = 0;
    fp_doctor_read(doctor, "/proc/sys/kernel/osrelease", text, sizeof text);
    if (sscanf(text, "%u.%u", &major, &minor) != 2) {
        fp_doctor_add(doctor, "kernel", FP_DOCTOR_WARN, "look at: uname -r",
                      "the kernel's version is not known: '%s'", text);
        return;
    }
    bool old = major < 6 || (major == 6 && minor < 1);
    fp_doctor_add(doctor, "kernel", old ? FP_DOCTOR_WARN : FP_DOCTOR_OK,
                  old ? "use Debian 12 or later" : NULL, "%s%s", text,
                  old ? ": nothing before 6.1 is tested" : "");
    bool batches = major > 6 || (major == 6 && minor >= 13);
    fp_doctor_add(doctor, "madvise", FP_DOCTOR_OK, NULL,
                  batches ? "evicted pages of the vm mapping are dropped in batches "
                            "(process_madvise)"
                          : "pools with the vm mapping evict more slowly than from kernel 6.13 on "
                            "(process_madvise); frames does not care");
}

static void check_io_uring(fp_doctor *doctor)
{
    int rc = doctor->probes->io_uring();
    uint64_t disabled = 0;
    if (!rc) {
        fp_doctor_add(doctor, "io_uring", FP_DOCTOR_OK, NULL, "works");
        return;
    }
    fp_doctor_read_number(doctor, "/proc/sys/kernel/io_uring_disabled", &disabled);
    const char *mend = disabled ? "sysctl kernel.io_uring_disabled=0"
                       : rc == -ENOSYS
                           ? "use a kernel with io_uring (CONFIG_IO_URING)"
                           : "allow io_uring_setup, _enter and _register in the seccomp filter of "
                             "this container or unit";
    fp_doctor_add(doctor, "io_uring", doctor->options->volume ? FP_DOCTOR_FAIL : FP_DOCTOR_WARN,
                  mend, "io_uring_setup: %s; storage nodes need it%s", strerror(-rc),
                  disabled ? " (sysctl kernel.io_uring_disabled is set)" : "");
}

static void check_userfaultfd(fp_doctor *doctor)
{
    int rc = doctor->probes->userfaultfd();
    if (!rc)
        fp_doctor_add(doctor, "userfaultfd", FP_DOCTOR_OK, NULL,
                      "works: pools can have the vm mapping");
    else
        fp_doctor_add(doctor, "userfaultfd", FP_DOCTOR_WARN,
                      "allow userfaultfd in the seccomp filter of this container or unit, or use "
                      "mapping = frames",
                      "userfaultfd: %s: pools cannot have the vm mapping", strerror(-rc));
}

static void check_files(fp_doctor *doctor)
{
    uint64_t soft, hard;
    if (!fp_doctor_limit(doctor, "Max open files", &soft, &hard))
        return;
    bool enough = hard >= FILES_MIN;
    fp_doctor_add(doctor, "open files", enough ? FP_DOCTOR_OK : FP_DOCTOR_WARN,
                  enough ? NULL : "LimitNOFILE=65536 in the unit",
                  "%" PRIu64 " descriptors (hard limit), a node with all its 4096 clients needs %d",
                  hard, FILES_MIN);
}

static void check_governor(fp_doctor *doctor)
{
    char text[64];
    if (!fp_doctor_read(doctor, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", text,
                        sizeof text)) {
        fp_doctor_add(doctor, "cpu", FP_DOCTOR_OK, NULL, "no governor changes its frequency");
        return;
    }
    bool fast = !strcmp(text, "performance");
    fp_doctor_add(doctor, "cpu", fast ? FP_DOCTOR_OK : FP_DOCTOR_WARN,
                  fast ? NULL : "cpupower frequency-set -g performance", "governor %s%s", text,
                  fast ? "" : ": faults that come singly take longer");
}

static void check_clock(fp_doctor *doctor)
{
    bool synchronized = false;
    int rc = doctor->probes->clock(&synchronized);
    if (rc)
        fp_doctor_add(doctor, "clock", FP_DOCTOR_WARN, "look at: timedatectl", "adjtimex: %s",
                      strerror(-rc));
    else
        fp_doctor_add(doctor, "clock", synchronized ? FP_DOCTOR_OK : FP_DOCTOR_WARN,
                      synchronized ? NULL : "apt-get install chrony, or systemd-timesyncd",
                      synchronized ? "is synchronized"
                                   : "is not synchronized: nothing depends on it but the times in "
                                     "logs of several machines");
}

void fp_doctor_check_kernel(fp_doctor *doctor)
{
    check_version(doctor);
    check_io_uring(doctor);
    check_userfaultfd(doctor);
    check_files(doctor);
    check_governor(doctor);
    check_clock(doctor);
}
