/* SPDX-License-Identifier: Apache-2.0 */
#include "common/lineage.h"

#include <string.h>

bool fp_lineage_is_valid(const fp_lineage *lineage)
{
    fp_fork last = {lineage->before, 0};
    if (lineage->count > FP_FORKS_MAX || lineage->zero)
        return false;
    for (uint32_t i = 0; i < lineage->count; i++) {
        const fp_fork *fork = &lineage->forks[i];
        if (fork->number <= last.number || fork->at < last.at)
            return false;
        last = *fork;
    }
    return true;
}

uint64_t fp_lineage_number(const fp_lineage *lineage)
{
    return lineage->count ? lineage->forks[lineage->count - 1].number : lineage->before;
}

uint64_t fp_lineage_at(const fp_lineage *lineage)
{
    return lineage->count ? lineage->forks[lineage->count - 1].at : 0;
}

/* How many of the forks are at or before the LSN. */
static uint32_t count_reached(const fp_lineage *lineage, uint64_t end)
{
    uint32_t count = lineage->count;
    while (count && lineage->forks[count - 1].at > end)
        count--;
    return count;
}

uint64_t fp_lineage_reached(const fp_lineage *lineage, uint64_t end)
{
    uint32_t count = count_reached(lineage, end);
    return count ? lineage->forks[count - 1].number : lineage->before;
}

void fp_lineage_fork(fp_lineage *lineage, uint64_t end, uint64_t number)
{
    uint32_t count = count_reached(lineage, end);
    memset(lineage->forks + count, 0, (FP_FORKS_MAX - count) * sizeof *lineage->forks);
    if (count == FP_FORKS_MAX) {
        lineage->before = lineage->forks[0].number;
        memmove(lineage->forks, lineage->forks + 1, (FP_FORKS_MAX - 1) * sizeof *lineage->forks);
        count--;
    }
    lineage->forks[count] = (fp_fork){number, end};
    lineage->count = count + 1;
}

bool fp_lineage_leads_to(const fp_lineage *lineage, uint64_t end, const fp_lineage *other)
{
    uint64_t number = fp_lineage_reached(lineage, end);
    uint32_t next = 0;
    if (number != other->before) {
        while (next < other->count && other->forks[next].number != number)
            next++;
        if (next++ == other->count)
            return false;
    }
    return next == other->count || end <= other->forks[next].at;
}
