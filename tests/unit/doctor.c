/* SPDX-License-Identifier: Apache-2.0 */
/* Shows what the doctor says of machines that are well and of machines that are not, made of files and answers, and that
 * he has something to say of this one. */
#include "coordinator/ctl/doctor.h"

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/teststorage.h"

static char root[256];

/* ---- a machine ------------------------------------------------------------------------------- */

static int uring_rc, uffd_rc, clock_rc, rdma_rc, volume_rc;
static bool clock_good;
static fp_doctor_port ports[2];
static unsigned port_count;
static fp_doctor_volume disk;

static int fake_uring(void) { return uring_rc; }
static int fake_uffd(void) { return uffd_rc; }

static int fake_clock(bool *synchronized)
{
    *synchronized = clock_good;
    return clock_rc;
}

static int fake_rdma(fp_doctor_port *out, unsigned *count)
{
    memcpy(out, ports, sizeof ports);
    *count = port_count;
    return rdma_rc;
}

static int fake_volume(const char *directory, fp_doctor_volume *volume, const char **step)
{
    assert_string_equal(directory, "/srv/0");
    *volume = disk;
    *step = "fdatasync";
    return volume_rc;
}

static const fp_doctor_probes fakes = {fake_uring, fake_uffd, fake_clock, fake_rdma, fake_volume};
static fp_doctor_options options;

static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        assert_true(!mkdir(full, 0755) || errno == EEXIST);
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void drop(const char *path)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    assert_int_equal(unlink(full), 0);
}

static const fp_doctor_port good_port = {.device = "mlx5_0",
                                         .number = 1,
                                         .active = true,
                                         .state = "active",
                                         .ethernet = true,
                                         .mtu = 4096,
                                         .routable = 1,
                                         .gid = "0000:0000:0000:0000:0000:ffff:0a00:0001"};

#define LIMITS(locked, files)                                                                      \
    "Limit                     Soft Limit           Hard Limit           Units     \n"             \
    "Max open files            1024                 " files "                files     \n"         \
    "Max locked memory         8388608              " locked "              bytes     \n"

/* A machine that is well. */
static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "%s/farpool-doctor-XXXXXX",
             getenv("FARPOOL_BUILD") ? getenv("FARPOOL_BUILD") : "build");
    assert_non_null(mkdtemp(root));
    put("/proc/self/limits", LIMITS("unlimited", "1048576"));
    put("/proc/self/status", "Name:\tx\nCapEff:\t0000000000000000\n");
    put("/proc/meminfo", "MemTotal: 16000000 kB\nMemAvailable:   12000000 kB\nSwapTotal:  0 kB\n");
    put("/proc/sys/kernel/osrelease", "6.13.2-amd64\n");
    put("/proc/sys/kernel/numa_balancing", "1\n");
    put("/proc/sys/vm/max_map_count", "65530\n");
    put("/sys/devices/system/node/node0/cpulist", "0-7\n");
    put("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "600\n");
    put("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "520\n");
    put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    put("/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always within_size advise [never] deny force\n");
    uring_rc = uffd_rc = clock_rc = rdma_rc = volume_rc = 0;
    clock_good = true;
    ports[0] = good_port;
    port_count = 1;
    disk = (fp_doctor_volume){
        .total_bytes = 1ull << 40, .free_bytes = 1ull << 39, .direct = true, .write_ns = 100000};
    options = (fp_doctor_options){.memory_bytes = 1ull << 30,
                                  .numa_node = -1,
                                  .volume = "/srv/0",
                                  .verbs = true,
                                  .root = root,
                                  .probes = &fakes};
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int teardown(void **state)
{
    (void)state;
    return nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- what is said ---------------------------------------------------------------------------- */

static const char *text_of(const json_t *check, const char *key)
{
    return json_string_value(json_object_get(check, key));
}

/* The check of that name is in that state, found that, and says how to mend it with these words (NULL: nothing is to be
 * mended). */
static void says(const char *name, const char *state, const char *found, const char *mend)
{
    json_t *report;
    size_t i;
    const json_t *check, *that = NULL;
    assert_int_equal(fp_doctor_run(&options, &report), 0);
    json_array_foreach(json_object_get(report, "checks"), i, check)
    {
        if (!strcmp(text_of(check, "name"), name))
            that = check;
        assert_int_equal(!strcmp(text_of(check, "state"), "ok"),
                         text_of(check, "mend") == NULL); /* who finds something, mends it */
    }
    if (!that)
        fail_msg("there is no check %s", name);
    const char *told = text_of(that, "mend");
    if (strcmp(text_of(that, "state"), state) != 0 || !strstr(text_of(that, "found"), found) ||
        (mend && !strstr(told ? told : "", mend)))
        fail_msg("%s: %s: %s -> %s", name, text_of(that, "state"), text_of(that, "found"),
                 told ? told : "nothing");
    json_decref(report);
}

static void a_good_machine_has_nothing_to_be_mended(void **state)
{
    (void)state;
    json_t *report;
    assert_int_equal(fp_doctor_run(&options, &report), 0);
    fp_doctor_print(report, stdout);
    assert_int_equal(json_integer_value(json_object_get(report, "fail")), 0);
    assert_int_equal(json_integer_value(json_object_get(report, "warn")), 0);
    assert_int_equal(json_integer_value(json_object_get(report, "ok")),
                     json_array_size(json_object_get(report, "checks")));
    json_decref(report);
    says("huge pages", "ok", "520 of 600 pages of 2 MiB are free, 512 are needed", NULL);
    says("mlx5_0/1", "ok", "RoCE, active, MTU 4096, GID 0000", NULL);
    says("memlock", "ok", "everything may be locked", NULL);
    says("madvise", "ok", "in batches", NULL);
}

static void memory(void **state)
{
    (void)state;
    put("/proc/self/limits", LIMITS("8388608", "1048576"));
    says("memlock", "fail", "8 MiB may be locked (hard limit), RDMA registers 1 GiB",
         "LimitMEMLOCK=infinity");
    options.verbs = false;
    says("memlock", "warn", "8 MiB", "LimitMEMLOCK=infinity");
    put("/proc/self/status", "Name:\tx\nCapEff:\t0000000000004000\n");
    says("memlock", "ok", "CAP_IPC_LOCK", NULL);
    drop("/proc/self/status");
    drop("/proc/self/limits");
    says("memlock", "warn", "not known", "ulimit");

    put("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "100\n");
    says("huge pages", "warn", "100 pages of 2 MiB are free, 512 are needed",
         "echo 1012 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    options.numa_node = 1;
    says("huge pages", "warn", "0 pages of 2 MiB are free",
         "echo 512 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages");
    put("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    says("thp", "warn", "[never]", "echo madvise");
    drop("/sys/kernel/mm/transparent_hugepage/enabled");
    says("thp", "warn", "cannot be read", "kernel");

    options.memory_bytes = 64ull << 30;
    says("memory", "fail", "are to be offered", "--memory");
    put("/proc/meminfo", "MemAvailable:   99000000 kB\nSwapTotal:  1000000 kB\n");
    says("memory", "ok", "64 GiB are to be offered", NULL);
    says("swap", "warn", "976.6 MiB", "MemorySwapMax=0");
    put("/proc/meminfo", "nonsense");
    says("memory", "warn", "not known", "/proc/meminfo");
    put("/proc/sys/vm/max_map_count", "1000\n");
    says("maps", "warn", "1000", "sysctl vm.max_map_count");
    put("/sys/devices/system/node/node1/cpulist", "8-15\n");
    says("numa", "warn", "2 NUMA nodes", "numa_balancing=0");
    put("/proc/sys/kernel/numa_balancing", "0\n");
    says("numa", "ok", "2 NUMA nodes", NULL);
}

static void kernel(void **state)
{
    (void)state;
    put("/proc/sys/kernel/osrelease", "5.10.0-8-amd64\n");
    says("kernel", "warn", "5.10.0", "Debian 12");
    put("/proc/sys/kernel/osrelease", "6.1.0\n");
    says("kernel", "ok", "6.1.0", NULL);
    says("madvise", "ok", "more slowly", NULL);
    put("/proc/sys/kernel/osrelease", "new\n");
    says("kernel", "warn", "'new'", "uname");

    uring_rc = -EPERM;
    says("io_uring", "fail", "Operation not permitted", "seccomp");
    put("/proc/sys/kernel/io_uring_disabled", "2\n");
    says("io_uring", "fail", "io_uring_disabled is set", "sysctl kernel.io_uring_disabled=0");
    put("/proc/sys/kernel/io_uring_disabled", "0\n");
    uring_rc = -ENOSYS;
    says("io_uring", "fail", "not implemented", "CONFIG_IO_URING");
    options.volume = NULL;
    says("io_uring", "warn", "storage nodes need it", "CONFIG_IO_URING");
    uffd_rc = -EPERM;
    says("userfaultfd", "warn", "vm mapping", "frames");

    put("/proc/self/limits", LIMITS("unlimited", "1024   "));
    says("open files", "warn", "1024", "LimitNOFILE");
    put("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n");
    says("cpu", "warn", "powersave", "performance");
    put("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
    says("cpu", "ok", "performance", NULL);
    clock_good = false;
    says("clock", "warn", "not synchronized", "chrony");
    clock_rc = -EPERM;
    says("clock", "warn", "not permitted", "timedatectl");
}

static void rdma(void **state)
{
    (void)state;
    ports[0].mtu = 1024;
    says("mlx5_0/1", "warn", "MTU 1024", "mtu 9000");
    says("rdma", "ok", "verbs://", NULL);
    ports[0].routable = 0;
    ports[0].link_local = 1;
    says("mlx5_0/1", "warn", "link-local", "address of IP");
    says("rdma", "fail", "no port can be used", "see above");
    ports[0].link_local = 0;
    says("mlx5_0/1", "warn", "no GID of RoCE v2", "address of IP");
    ports[0].active = false;
    strcpy(ports[0].state, "down");
    says("mlx5_0/1", "warn", "down", "cable");
    ports[1] = (fp_doctor_port){
        .device = "ib0", .number = 2, .active = true, .state = "active", .mtu = 2048};
    port_count = 2;
    says("ib0/2", "warn", "InfiniBand, active, MTU 2048", "subnet manager");
    says("rdma", "ok", "verbs://", NULL);
    port_count = 0;
    says("rdma", "fail", "no RDMA device", "rxe");
    rdma_rc = -EACCES;
    says("rdma", "fail", "Permission denied", "/dev/infiniband");
    options.verbs = false;
    says("rdma", "warn", "Permission denied", "/dev/infiniband");
}

static void volume(void **state)
{
    (void)state;
    disk.write_ns = 20000000;
    says("volume", "warn", "20.00 ms", "NVMe");
    disk.direct = false;
    says("volume", "warn", "no O_DIRECT", "ext4");
    disk.in_memory = true;
    says("volume", "fail", "in memory", "on a disk");
    disk.free_bytes = 1 << 20;
    says("volume space", "warn", "1 MiB of 1 TiB", "make room");
    volume_rc = -EIO;
    says("volume", "fail", "/srv/0: fdatasync: Input/output error", "directory");
}

/* Files that are not there or make no sense are findings. */
static void an_empty_machine(void **state)
{
    (void)state;
    json_t *report;
    char empty[300];
    snprintf(empty, sizeof empty, "%s/empty", root);
    options.root = empty;
    assert_int_equal(fp_doctor_run(&options, &report), 0);
    assert_true(json_array_size(json_object_get(report, "checks")) > 8);
    json_decref(report);
    options.root = root;
    for (unsigned i = 0; i < 5; i++) {
        static const char *const files[] = {"/proc/self/limits", "/proc/self/status",
                                            "/proc/meminfo", "/proc/sys/kernel/osrelease",
                                            "/sys/kernel/mm/transparent_hugepage/enabled"};
        put(files[i], "Max locked memory\nCapEff:\nMemAvailable:\n\377\376 [never");
    }
    assert_int_equal(fp_doctor_run(&options, &report), 0);
    json_decref(report);
}

static void this_machine(void **state)
{
    (void)state;
    json_t *report;
    char directory[256];
    test_volume_make(directory);
    options = (fp_doctor_options){.memory_bytes = 64 << 20, .numa_node = -1, .volume = directory};
    assert_int_equal(fp_doctor_run(&options, &report), 0);
    fp_doctor_print(report, stdout);
    assert_true(json_array_size(json_object_get(report, "checks")) >= 12);
    json_decref(report);
    test_volume_remove(directory); /* nothing is left in it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_good_machine_has_nothing_to_be_mended, setup, teardown),
        cmocka_unit_test_setup_teardown(memory, setup, teardown),
        cmocka_unit_test_setup_teardown(kernel, setup, teardown),
        cmocka_unit_test_setup_teardown(rdma, setup, teardown),
        cmocka_unit_test_setup_teardown(volume, setup, teardown),
        cmocka_unit_test_setup_teardown(an_empty_machine, setup, teardown),
        cmocka_unit_test(this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
