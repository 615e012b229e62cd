/* SPDX-License-Identifier: Apache-2.0 */
#include "coordinator/sim_copy.h"

#include <stdlib.h>
#include <string.h>

#include "common/error.h"

static size_t text_size(const char *text) { return text ? strlen(text) + 1 : 0; }

static size_t size_of_ops(const fp_meta_op *ops, size_t count)
{
    size_t size = count * sizeof *ops;
    for (size_t i = 0; i < count; i++)
        size += text_size(ops[i].key) + ops[i].len;
    return size;
}

static const void *put(char **at, const void *data, size_t len)
{
    char *place = *at;
    if (!data)
        return NULL;
    if (len)
        memcpy(place, data, len);
    *at += len;
    return place;
}

/* Arrays first, for their alignment. */
static fp_meta_op *put_ops(char **at, const fp_meta_op *ops, size_t count)
{
    return count ? (fp_meta_op *)(uintptr_t)put(at, ops, count * sizeof *ops) : NULL;
}

static void put_contents(char **at, fp_meta_op *ops, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ops[i].key = put(at, ops[i].key, text_size(ops[i].key));
        ops[i].value = put(at, ops[i].value, ops[i].len);
    }
}

fp_meta_req *fp_meta_copy(const fp_meta_req *req)
{
    size_t size = sizeof *req + size_of_ops(req->ops, req->op_count) +
                  size_of_ops(req->other_ops, req->other_count) + text_size(req->key) +
                  text_size(req->after) + req->compare_count * sizeof *req->compares;
    for (size_t i = 0; i < req->compare_count; i++)
        size += text_size(req->compares[i].key) + req->compares[i].len;
    fp_meta_req *copy = malloc(size);
    FP_ASSERT(copy); /* a simulation without memory is over */
    *copy = *req;
    char *at = (char *)(copy + 1);
    fp_meta_op *ops = put_ops(&at, req->ops, req->op_count);
    fp_meta_op *others = put_ops(&at, req->other_ops, req->other_count);
    fp_meta_compare *compares = NULL;
    if (req->compare_count)
        compares = (fp_meta_compare *)(uintptr_t)put(&at, req->compares,
                                                     req->compare_count * sizeof *compares);
    put_contents(&at, ops, req->op_count);
    put_contents(&at, others, req->other_count);
    for (size_t i = 0; i < req->compare_count; i++) {
        compares[i].key = put(&at, compares[i].key, text_size(compares[i].key));
        compares[i].value = put(&at, compares[i].value, compares[i].len);
    }
    copy->ops = ops;
    copy->other_ops = others;
    copy->compares = compares;
    copy->key = put(&at, req->key, text_size(req->key));
    copy->after = put(&at, req->after, text_size(req->after));
    return copy;
}
