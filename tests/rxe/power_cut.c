/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cuts the power of a VM, by what QEMU's blklogwrites records of its disk: every write and every flush, in the format of
 * Linux's dm-log-writes.
 *
 *   power_cut kill LOG PID SEED       kills QEMU when as many writes as SEED draws have come since the last flush, or
 *                                     after two seconds: unflushed writes are what a power cut is about, and most of
 *                                     the time there are none
 *   power_cut replay LOG IMAGE SEED   makes of IMAGE, which is the disk as it was when the VM was started, the one that
 *                                     the power cut has left. What was written before the last flush is there. Of what
 *                                     came after it the device's volatile cache may have put anything on the medium:
 *                                     each write is there, or is not, or some of its blocks of 4096 bytes are
 *
 * QEMU assigns places in the log in the order in which writes complete, and tells the guest only when what stands there
 * is written; so a write that the guest knew to be complete when it asked for a flush stands before that flush.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/lib/require.h"
#include "tests/lib/testnode.h"

enum {
    UNFLUSHED_MAX = 8, /* writes that are waited for */
    PATIENCE_NS = 2000000000,
    BLOCK = 8, /* sectors that a disk writes whole: ext4 cannot be mounted with half a superblock */
    SECTOR = 512, /* QEMU's default; the log's head and each entry take one */
    FLUSH = 1,    /* the only flag that the disk of power_off.sh can give rise to */
};

/* Little-endian, as is every machine with a VM of scripts/rxe-vm. */
#define LOG_MAGIC 0x6a736677736872ull
typedef struct log_head {
    uint64_t magic, version, entries;
    uint32_t sector_bytes;
} log_head;

typedef struct log_entry {
    uint64_t sector, sectors, flags, reserved; /* the data follow in the next sectors */
} log_entry;

/* What has been written of it so far. */
typedef struct write_log {
    int fd;
    uint64_t bytes, disk_bytes;
} write_log;

static struct {
    uint64_t flushes, writes, whole, torn, lost;
} seen;

static uint64_t size_of(int fd)
{
    struct stat status;
    REQUIRE(fstat(fd, &status) == 0);
    return (uint64_t)status.st_size;
}

static void read_at(const write_log *log, uint64_t offset, void *buffer, size_t bytes)
{
    REQUIRE(pread(log->fd, buffer, bytes, (off_t)offset) == (ssize_t)bytes);
}

/* The entry at *offset, which is moved behind it and its data; false at the end, which is where QEMU has got to: an
 * entry that it is writing, or was when it was killed, is not there, or only in part. */
static bool next_entry(const write_log *log, uint64_t *offset, log_entry *entry)
{
    if (log->bytes < SECTOR || *offset > log->bytes - SECTOR)
        return false;
    read_at(log, *offset, entry, sizeof *entry);
    uint64_t bytes = entry->sectors * SECTOR;
    if (entry->flags == 0) {
        if (!entry->sectors || bytes > log->bytes - *offset - SECTOR)
            return false;
        REQUIRE(entry->sector + entry->sectors <= log->disk_bytes / SECTOR);
    }
    REQUIRE(entry->flags == 0 || (entry->flags == FLUSH && !entry->sectors));
    *offset += SECTOR + bytes;
    return true;
}

/* ---- kill ------------------------------------------------------------------------------------ */

static void kill_vm(write_log *log, pid_t pid, uint64_t random)
{
    uint64_t deadline = fp_now_ns() + PATIENCE_NS;
    uint64_t wanted = test_random(&random) % (UNFLUSHED_MAX + 1), unflushed = 0, offset = SECTOR;
    log_entry entry;
    REQUIRE(pid > 1);
    do {
        usleep(20);
        log->bytes = size_of(log->fd);
        while (next_entry(log, &offset, &entry))
            unflushed = entry.flags == FLUSH ? 0 : unflushed + 1;
    } while (unflushed < wanted && fp_now_ns() < deadline);
    REQUIRE(kill(pid, SIGKILL) == 0);
}

/* ---- replay ---------------------------------------------------------------------------------- */

/* QEMU may have been killed while a write was still on its way to the log and a later flush had got there: then nobody
 * can tell where the entries behind it begin. Writes take microseconds, so that is not to be expected. */
static void refuse_hole_before_flush(const write_log *log, uint64_t offset)
{
    uint8_t sector[SECTOR], flush[SECTOR] = {0};
    log_entry entry = {.flags = FLUSH};
    memcpy(flush, &entry, sizeof entry);
    for (; offset + SECTOR <= log->bytes; offset += SECTOR) {
        read_at(log, offset, sector, SECTOR);
        REQUIRE(memcmp(sector, flush, SECTOR) != 0);
    }
}

/* Where the last flush ends. */
static uint64_t find_last_flush(const write_log *log)
{
    log_head head;
    log_entry entry;
    uint64_t offset = SECTOR, last = 0;
    read_at(log, 0, &head, sizeof head);
    REQUIRE(head.magic == LOG_MAGIC && head.version == 1 && head.sector_bytes == SECTOR);
    while (next_entry(log, &offset, &entry)) {
        if (entry.flags == FLUSH) {
            seen.flushes++;
            last = offset;
        }
    }
    refuse_hole_before_flush(log, offset);
    return last;
}

static void put(int image, const log_entry *entry, const uint8_t *data, uint64_t at, uint64_t count)
{
    ssize_t bytes = (ssize_t)(count * SECTOR);
    REQUIRE(pwrite(image, data + at * SECTOR, (size_t)bytes,
                   (off_t)((entry->sector + at) * SECTOR)) == bytes);
}

static void put_some_sectors(int image, const log_entry *entry, const uint8_t *data,
                             uint64_t *random)
{
    uint64_t written = 0;
    for (uint64_t i = 0, n; i < entry->sectors; i += n) {
        n = BLOCK - (entry->sector + i) % BLOCK;
        n = n < entry->sectors - i ? n : entry->sectors - i;
        if (test_random(random) >> 63) {
            put(image, entry, data, i, n);
            written += n;
        }
    }
    if (!written)
        seen.lost++;
    else if (written == entry->sectors)
        seen.whole++;
    else
        seen.torn++;
}

/* A write that no flush followed. */
static void put_perhaps(int image, const log_entry *entry, const uint8_t *data, uint64_t *random)
{
    switch (test_random(random) >> 32 & 3) {
    case 0:
        put(image, entry, data, 0, entry->sectors);
        seen.whole++;
        break;
    case 1:
        put_some_sectors(image, entry, data, random);
        break;
    default:
        seen.lost++;
    }
}

static void replay(const write_log *log, int image, uint64_t random)
{
    uint64_t last_flush = find_last_flush(log), offset = SECTOR;
    log_entry entry;
    while (next_entry(log, &offset, &entry)) {
        size_t bytes = entry.sectors * SECTOR;
        if (entry.flags == FLUSH)
            continue;
        uint8_t *data = malloc(bytes);
        REQUIRE(data);
        read_at(log, offset - bytes, data, bytes);
        seen.writes++;
        if (offset <= last_flush)
            put(image, &entry, data, 0, entry.sectors);
        else
            put_perhaps(image, &entry, data, &random);
        free(data);
    }
    printf("%llu writes, %llu flushes; not flushed: %llu writes kept, %llu torn, %llu lost\n",
           (unsigned long long)seen.writes, (unsigned long long)seen.flushes,
           (unsigned long long)seen.whole, (unsigned long long)seen.torn,
           (unsigned long long)seen.lost);
}

int main(int argc, char **argv)
{
    bool kills = argc == 5 && !strcmp(argv[1], "kill");
    if (!kills && (argc != 5 || strcmp(argv[1], "replay") != 0)) {
        fprintf(stderr, "usage: power_cut kill LOG PID SEED, or replay LOG IMAGE SEED\n");
        return 2;
    }
    uint64_t seed = strtoull(argv[4], NULL, 10);
    write_log log = {.fd = open(argv[2], O_RDONLY | O_CLOEXEC), .disk_bytes = UINT64_MAX};
    REQUIRE(log.fd >= 0);
    if (kills) {
        kill_vm(&log, atoi(argv[3]), seed);
        return 0;
    }
    int image = open(argv[3], O_WRONLY | O_CLOEXEC);
    REQUIRE(image >= 0);
    log.bytes = size_of(log.fd);
    log.disk_bytes = size_of(image);
    replay(&log, image, seed);
    REQUIRE(close(image) == 0);
    return 0;
}
