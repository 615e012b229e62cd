/* SPDX-License-Identifier: Apache-2.0 */
/* Checks of memory: limits, huge pages, how much there is, swap, NUMA. */
#include <inttypes.h>
#include <string.h>

#include "common/config.h"
#include "coordinator/ctl/doctor_inside.h"

enum {
    CAP_IPC_LOCK_BIT = 14,
    HUGE_BYTES = 2 << 20,
    LOCKED_MIN = 64 << 20, /* of a node that offers no memory: buffers for messages */
    MAPS_MIN = 65530,      /* the kernel's default */
    NUMA_NODES_MAX = 64,
};

static bool may_lock_all(const fp_doctor *doctor)
{
    char text[4096];
    uint64_t capabilities;
    if (!fp_doctor_read(doctor, "/proc/self/status", text, sizeof text))
        return false;
    const char *line = strstr(text, "\nCapEff:");
    return line && sscanf(line, "\nCapEff: %" SCNx64, &capabilities) == 1 &&
           (capabilities >> CAP_IPC_LOCK_BIT & 1);
}

static void check_memlock(fp_doctor *doctor)
{
    uint64_t soft, hard, wanted = doctor->options->memory_bytes;
    char have[32], need[32];
    wanted = wanted > LOCKED_MIN ? wanted : LOCKED_MIN;
    fp_config_size_text(wanted, need, sizeof need);
    if (may_lock_all(doctor)) {
        fp_doctor_add(doctor, "memlock", FP_DOCTOR_OK, NULL,
                      "this process may lock all memory (CAP_IPC_LOCK)");
        return;
    }
    if (!fp_doctor_limit(doctor, "Max locked memory", &soft, &hard)) {
        fp_doctor_add(doctor, "memlock", FP_DOCTOR_WARN, "look at: ulimit -H -l",
                      "the limit of locked memory is not known");
        return;
    }
    bool enough = hard >= wanted;
    fp_config_size_text(hard, have, sizeof have);
    fp_doctor_add(doctor, "memlock",
                  enough                   ? FP_DOCTOR_OK
                  : doctor->options->verbs ? FP_DOCTOR_FAIL
                                           : FP_DOCTOR_WARN,
                  enough
                      ? NULL
                      : "LimitMEMLOCK=infinity in the unit, or a line '* - memlock unlimited' in "
                        "/etc/security/limits.d/farpool.conf",
                  "%s may be locked (hard limit), RDMA registers %s",
                  hard == UINT64_MAX ? "everything" : have, need);
}

/* A memory node's memory: reserved pages of 2 MiB. */
static void check_reserved(fp_doctor *doctor)
{
    const fp_doctor_options *options = doctor->options;
    uint64_t total = 0, free = 0, need = (options->memory_bytes + HUGE_BYTES - 1) / HUGE_BYTES;
    char where[128] = "/sys/kernel/mm/hugepages/hugepages-2048kB", path[200], mend[320], shmem[128];
    if (options->numa_node >= 0)
        snprintf(where, sizeof where, "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB",
                 options->numa_node);
    snprintf(path, sizeof path, "%s/nr_hugepages", where);
    bool known = fp_doctor_read_number(doctor, path, &total);
    snprintf(path, sizeof path, "%s/free_hugepages", where);
    known = fp_doctor_read_number(doctor, path, &free) && known;
    if (known && free >= need) {
        fp_doctor_add(doctor, "huge pages", FP_DOCTOR_OK, NULL,
                      "%" PRIu64 " of %" PRIu64 " pages of 2 MiB are free, %" PRIu64 " are needed",
                      free, total, need);
        return;
    }
    bool helped = fp_doctor_read(doctor, "/sys/kernel/mm/transparent_hugepage/shmem_enabled", shmem,
                                 sizeof shmem) &&
                  !strstr(shmem, "[never]") && !strstr(shmem, "[deny]");
    snprintf(mend, sizeof mend,
             "at boot, before memory is fragmented: echo %" PRIu64 " > %s/nr_hugepages",
             total - free + need, where);
    fp_doctor_add(doctor, "huge pages", FP_DOCTOR_WARN, mend,
                  "%" PRIu64 " pages of 2 MiB are free, %" PRIu64
                  " are needed: starting and the NIC's address translation are slower%s",
                  free, need,
                  helped ? ", where the kernel finds no huge pages by itself (shmem_enabled)" : "");
}

/* A program's pool asks for them by madvise. */
static void check_transparent(fp_doctor *doctor)
{
    static const char path[] = "/sys/kernel/mm/transparent_hugepage/enabled";
    char text[128];
    if (!fp_doctor_read(doctor, path, text, sizeof text)) {
        fp_doctor_add(doctor, "thp", FP_DOCTOR_WARN, "use a kernel with transparent huge pages",
                      "%s cannot be read: no transparent huge pages", path);
        return;
    }
    bool never = strstr(text, "[never]");
    fp_doctor_add(doctor, "thp", never ? FP_DOCTOR_WARN : FP_DOCTOR_OK,
                  never ? "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled" : NULL,
                  "transparent huge pages: %s%s", text,
                  never ? ": pools of programs are in pages of 4 KiB" : "");
}

static void check_amount(fp_doctor *doctor)
{
    uint64_t available, reserved = 0, swap;
    char have[32], need[32];
    if (!doctor->options->memory_bytes)
        return;
    if (!fp_doctor_meminfo(doctor, "MemAvailable", &available)) {
        fp_doctor_add(doctor, "memory", FP_DOCTOR_WARN, "look at /proc/meminfo",
                      "it is not known how much memory is available");
        return;
    }
    fp_doctor_read_number(doctor, "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
                          &reserved);
    available += reserved * HUGE_BYTES;
    bool enough = available > doctor->options->memory_bytes;
    fp_config_size_text(available, have, sizeof have);
    fp_config_size_text(doctor->options->memory_bytes, need, sizeof need);
    fp_doctor_add(doctor, "memory", enough ? FP_DOCTOR_OK : FP_DOCTOR_FAIL,
                  enough ? NULL : "give the node less (--memory), or end what else uses it",
                  "%s are available, %s are to be offered", have, need);
    if (fp_doctor_meminfo(doctor, "SwapTotal", &swap) && swap) {
        fp_config_size_text(swap, have, sizeof have);
        fp_doctor_add(doctor, "swap", FP_DOCTOR_WARN, "MemorySwapMax=0 in the unit, or swapoff -a",
                      "%s of swap: memory offered over shm and tcp may go there", have);
    } else {
        fp_doctor_add(doctor, "swap", FP_DOCTOR_OK, NULL, "there is none");
    }
}

static void check_maps(fp_doctor *doctor)
{
    uint64_t maps;
    if (!fp_doctor_read_number(doctor, "/proc/sys/vm/max_map_count", &maps))
        return; /* a kernel without it has no such limit */
    bool enough = maps >= MAPS_MIN;
    fp_doctor_add(doctor, "maps", enough ? FP_DOCTOR_OK : FP_DOCTOR_WARN,
                  enough ? NULL : "sysctl vm.max_map_count=65530",
                  "a process may have %" PRIu64 " mappings", maps);
}

static void check_numa(fp_doctor *doctor)
{
    uint64_t balancing = 0;
    unsigned nodes = 0;
    char path[64], cpus[512];
    for (unsigned i = 0; i < NUMA_NODES_MAX; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/node/node%u/cpulist", i);
        nodes += fp_doctor_read(doctor, path, cpus, sizeof cpus);
    }
    fp_doctor_read_number(doctor, "/proc/sys/kernel/numa_balancing", &balancing);
    if (nodes < 2)
        fp_doctor_add(doctor, "numa", FP_DOCTOR_OK, NULL, "one NUMA node");
    else if (balancing)
        fp_doctor_add(doctor, "numa", FP_DOCTOR_WARN,
                      "sysctl kernel.numa_balancing=0, and --numa-node for memory nodes",
                      "%u NUMA nodes, and the kernel moves pages between them: that costs faults",
                      nodes);
    else
        fp_doctor_add(doctor, "numa", FP_DOCTOR_OK, NULL, "%u NUMA nodes, nothing is moved", nodes);
}

void fp_doctor_check_memory(fp_doctor *doctor)
{
    check_memlock(doctor);
    if (doctor->options->memory_bytes)
        check_reserved(doctor);
    check_transparent(doctor);
    check_amount(doctor);
    check_maps(doctor);
    check_numa(doctor);
}
