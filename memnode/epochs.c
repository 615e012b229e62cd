/* SPDX-License-Identifier: Apache-2.0 */
#include "memnode/epochs.h"

#include <inttypes.h>
#include <stdlib.h>

#include "common/log.h"

/* Its place, or count. Partitions come and go rarely enough for looking at all of them. */
static uint32_t find(const fp_epochs *epochs, uint64_t partition)
{
    uint32_t i = 0;
    while (i < epochs->count && epochs->list[i].partition != partition)
        i++;
    return i;
}

uint64_t fp_epochs_get(const fp_epochs *epochs, uint64_t partition)
{
    uint32_t i = find(epochs, partition);
    return i < epochs->count ? epochs->list[i].epoch : 0;
}

/* A place for another one; NULL list: there is no memory even for the first. */
static uint32_t take_place(fp_epochs *epochs)
{
    if (epochs->count == epochs->room && epochs->room < FP_EPOCHS_MAX) {
        uint32_t room = epochs->room ? 2 * epochs->room : 64;
        void *grown = realloc(epochs->list, room * sizeof *epochs->list);
        if (grown) {
            epochs->list = grown;
            epochs->room = room;
        }
    }
    if (epochs->count < epochs->room)
        return epochs->count++;
    uint32_t place = epochs->next;
    epochs->next = epochs->room ? (place + 1) % epochs->room : 0;
    return place;
}

void fp_epochs_note(fp_epochs *epochs, uint64_t partition, uint64_t epoch)
{
    uint32_t i = find(epochs, partition);
    if (i == epochs->count) {
        i = take_place(epochs);
        if (!epochs->list) {
            fp_log(FP_LOG_WARN,
                   "no memory to remember that partition %" PRIu64 " had epoch %" PRIu64, partition,
                   epoch);
            return;
        }
        epochs->list[i].partition = partition;
        epochs->list[i].epoch = 0;
    }
    if (epochs->list[i].epoch < epoch)
        epochs->list[i].epoch = epoch;
}

void fp_epochs_free(fp_epochs *epochs)
{
    free(epochs->list);
    *epochs = (fp_epochs){0};
}
