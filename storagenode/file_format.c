/* SPDX-License-Identifier: Apache-2.0 */
#include "storagenode/file_format.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/crc.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian");

static const uint64_t footer_magic = 0x31305245594c5046;   /* "FPLYER01" */
static const uint64_t manifest_magic = 0x313046494e4d5046; /* "FPMNIF01" */

#define CRC_OF(object) fp_crc32c(0, (object), offsetof(__typeof__(*(object)), crc))

/* ---- layers ---------------------------------------------------------------------------------- */

void fp_footer_put(uint8_t *block, fp_footer footer)
{
    footer.magic = footer_magic;
    footer.version = FP_FILE_VERSION;
    footer.crc = CRC_OF(&footer);
    memset(block, 0, FP_FILE_BLOCK);
    memcpy(block, &footer, sizeof footer);
}

uint64_t fp_index_bytes(const fp_footer *footer)
{
    return footer->kind == FP_LAYER_IMAGE ? footer->count * (uint64_t)sizeof(fp_image_entry)
                                          : footer->count * (uint64_t)sizeof(fp_delta_entry) +
                                                footer->chunks * (uint64_t)sizeof(uint32_t);
}

bool fp_footer_is_foreign(const fp_footer *footer)
{
    return footer->magic == footer_magic && footer->crc == CRC_OF(footer) &&
           footer->version != FP_FILE_VERSION;
}

const char *fp_footer_get(const uint8_t *block, uint64_t file_bytes, fp_footer *footer)
{
    memcpy(footer, block, sizeof *footer);
    if (footer->magic != footer_magic || footer->crc != CRC_OF(footer))
        return "the footer is damaged";
    if (footer->version != FP_FILE_VERSION)
        return "the footer is of another version";
    bool image = footer->kind == FP_LAYER_IMAGE;
    uint64_t chunks = (footer->data_bytes + FP_DELTA_CHUNK - 1) / FP_DELTA_CHUNK;
    if ((!image && footer->kind != FP_LAYER_DELTA) || footer->data_bytes > UINT32_MAX ||
        footer->chunks != (image ? 0 : chunks) || footer->lsn_from > footer->lsn_to ||
        footer->pid_first > footer->pid_last || footer->pid_last > FP_PID_MAX)
        return "the footer contradicts itself";
    if (fp_file_ceil(footer->data_bytes) + fp_file_ceil(fp_index_bytes(footer)) + FP_FILE_BLOCK !=
        file_bytes)
        return "the file is not as long as its footer says";
    return NULL;
}

static bool image_index_fits(const fp_image_entry *entries, const fp_footer *footer)
{
    uint64_t before = footer->pid_first;
    for (uint32_t i = 0; i < footer->count; i++) {
        uint64_t pid = fp_image_pid(&entries[i]), at = entries[i].block * (uint64_t)FP_FILE_BLOCK;
        unsigned order = fp_image_order(&entries[i]);
        if (order > FARPOOL_ORDER_MAX || pid < before || pid > footer->pid_last ||
            entries[i].lsn > footer->lsn_to ||
            (entries[i].block != FP_IMAGE_LOST &&
             at + ((uint64_t)FARPOOL_UNIT_BYTES << order) > footer->data_bytes))
            return false;
        before = pid + 1;
    }
    return true;
}

static bool delta_index_fits(const fp_delta_entry *entries, const fp_footer *footer)
{
    uint64_t before = footer->pid_first, at = 0;
    for (uint32_t i = 0; i < footer->count; i++) {
        if (entries[i].pid < before || entries[i].pid > footer->pid_last ||
            entries[i].offset < at || entries[i].offset >= footer->data_bytes ||
            entries[i].offset % FP_REDO_ALIGN)
            return false;
        before = entries[i].pid + 1;
        at = entries[i].offset + sizeof(fp_delta_record);
    }
    return footer->count == 0 || entries[0].offset == 0;
}

const char *fp_index_check(const void *index, const fp_footer *footer)
{
    if (fp_crc32c(0, index, fp_index_bytes(footer)) != footer->index_crc)
        return "the index is damaged";
    bool fits = footer->kind == FP_LAYER_IMAGE ? image_index_fits(index, footer)
                                               : delta_index_fits(index, footer);
    return fits ? NULL : "the index is not in order";
}

/* ---- manifests ------------------------------------------------------------------------------- */

static uint64_t copy_bytes(uint32_t count)
{
    return fp_file_ceil(sizeof(fp_manifest_header) + count * (uint64_t)sizeof(fp_manifest_entry));
}

uint8_t *fp_manifest_put(fp_manifest *manifest, size_t *bytes)
{
    fp_manifest_header *header = &manifest->header;
    size_t copy = copy_bytes(header->count), entries = header->count * sizeof *manifest->entries;
    uint8_t *file = aligned_alloc(FP_FILE_BLOCK, FP_MANIFEST_COPIES * copy);
    if (!file)
        return NULL;
    header->magic = manifest_magic;
    header->version = FP_FILE_VERSION;
    header->entries_crc = fp_crc32c(0, manifest->entries, entries);
    header->crc = CRC_OF(header);
    memset(file, 0, FP_MANIFEST_COPIES * copy);
    for (int i = 0; i < FP_MANIFEST_COPIES; i++) {
        memcpy(file + i * copy, header, sizeof *header);
        if (entries)
            memcpy(file + i * copy + sizeof *header, manifest->entries, entries);
    }
    *bytes = FP_MANIFEST_COPIES * copy;
    return file;
}

static bool entries_are_in_order(const fp_manifest *manifest)
{
    const fp_manifest_header *header = &manifest->header;
    uint64_t pid = 0, lsn = header->base;
    bool deltas = false;
    for (uint32_t i = 0; i < header->count; i++) {
        const fp_manifest_entry *entry = &manifest->entries[i];
        if (entry->bytes < FP_FILE_BLOCK || entry->bytes % FP_FILE_BLOCK)
            return false;
        if (entry->kind == FP_LAYER_IMAGE) {
            if (deltas || entry->pid_first < pid || entry->pid_last < entry->pid_first ||
                entry->pid_last > FP_PID_MAX || entry->lsn_to > header->base)
                return false;
            pid = entry->pid_last + 1;
        } else {
            if (entry->kind != FP_LAYER_DELTA || entry->lsn_from != lsn || entry->lsn_to <= lsn)
                return false;
            lsn = entry->lsn_to;
            deltas = true;
        }
    }
    return lsn == header->converted && header->beginning <= header->base;
}

static const char *get_copy(const uint8_t *copy, uint64_t bytes, uint64_t partition,
                            fp_manifest *manifest)
{
    fp_manifest_header *header = &manifest->header;
    memcpy(header, copy, sizeof *header);
    if (header->magic != manifest_magic || header->crc != CRC_OF(header))
        return "its header is damaged";
    if (header->version != FP_FILE_VERSION)
        return "it is of another version";
    if (header->partition != partition)
        return "it is of another partition";
    if (copy_bytes(header->count) != bytes)
        return "it is not as long as it says";
    manifest->entries = (fp_manifest_entry *)(uintptr_t)(copy + sizeof *header);
    if (fp_crc32c(0, manifest->entries, header->count * sizeof *manifest->entries) !=
        header->entries_crc)
        return "its list of layers is damaged";
    return entries_are_in_order(manifest) ? NULL : "its layers are not in order";
}

int fp_manifest_get(const uint8_t *file, uint64_t bytes, uint64_t partition, fp_manifest *manifest,
                    const char **why)
{
    uint64_t copy = bytes / FP_MANIFEST_COPIES;
    *why = "its length is wrong";
    if (copy < FP_FILE_BLOCK || bytes % (FP_MANIFEST_COPIES * (uint64_t)FP_FILE_BLOCK))
        return FARPOOL_E_CORRUPT;
    int i = FP_MANIFEST_COPIES;
    bool foreign = false;
    while (i-- > 0) { /* the first is looked at last, so *why is about it */
        *why = get_copy(file + (uint64_t)i * copy, copy, partition, manifest);
        if (!*why)
            break;
        const fp_manifest_header *header = &manifest->header;
        foreign = foreign || (header->magic == manifest_magic && header->crc == CRC_OF(header) &&
                              header->version != FP_FILE_VERSION);
    }
    if (*why) {
        manifest->entries = NULL; /* not those of a copy that is damaged further on */
        manifest->header.count = 0;
        return foreign ? FARPOOL_E_UNSUPPORTED : FARPOOL_E_CORRUPT;
    }
    size_t size = manifest->header.count * sizeof *manifest->entries;
    const fp_manifest_entry *there = manifest->entries;
    manifest->entries = malloc(size ? size : 1);
    if (!manifest->entries)
        return FARPOOL_E_NOMEM;
    memcpy(manifest->entries, there, size);
    return 0;
}

/* ---- names ----------------------------------------------------------------------------------- */

void fp_file_name(const uint8_t hash[FP_FILE_HASH_BYTES], char name[FP_FILE_NAME_MAX])
{
    int at = snprintf(name, FP_FILE_NAME_MAX, "file-");
    for (int i = 0; i < FP_FILE_HASH_BYTES; i++)
        at += snprintf(name + at, FP_FILE_NAME_MAX - (size_t)at, "%02x", hash[i]);
}

bool fp_file_parse(const char *name, uint8_t hash[FP_FILE_HASH_BYTES])
{
    char again[FP_FILE_NAME_MAX];
    if (strncmp(name, "file-", 5) != 0 || strlen(name) != 5 + 2 * FP_FILE_HASH_BYTES)
        return false;
    for (int i = 0; i < FP_FILE_HASH_BYTES; i++) {
        const char digits[3] = {name[5 + 2 * i], name[6 + 2 * i], 0};
        hash[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    fp_file_name(hash, again);
    return !strcmp(name, again);
}

void fp_manifest_name(uint64_t partition, char name[FP_FILE_NAME_MAX])
{
    snprintf(name, FP_FILE_NAME_MAX, "pages-%016" PRIx64 "-manifest", partition);
}

bool fp_manifest_parse(const char *name, uint64_t *partition)
{
    char again[FP_FILE_NAME_MAX];
    if (strncmp(name, "pages-", 6) != 0)
        return false;
    *partition = strtoull(name + 6, NULL, 16);
    fp_manifest_name(*partition, again);
    return !strcmp(name, again);
}

bool fp_file_is_temporary(const char *name)
{
    size_t len = strlen(name);
    return len > 4 && !strcmp(name + len - 4, ".tmp") &&
           (!strncmp(name, "file-", 5) || !strncmp(name, "pages-", 6));
}
