/* SPDX-License-Identifier: Apache-2.0 */
/* A coordinator's figures. Those of the cluster only the one who leads has. */
#include "common/daemon/process.h"
#include "coordinator/duties.h"
#include "coordinator/inside.h"

static void nodes(const fp_model *model, fp_metrics *m)
{
    uint64_t up[FP_ROLES] = {0}, lost[FP_ROLES] = {0};
    for (size_t i = 0; i < model->member_count; i++) {
        const fp_member *member = model->members[i];
        up[member->r.role] += fp_member_up(model, member);
        lost[member->r.role] += fp_member_lost(model, member);
    }
    fp_metrics_begin(m, FP_METRIC_GAUGE, "nodes_up", "Nodes that are there.");
    for (int i = 0; i < FP_ROLES; i++)
        fp_metrics_sample(m, "role", fp_role_names[i], up[i]);
    fp_metrics_begin(m, FP_METRIC_GAUGE, "nodes_lost", "Nodes that are taken for lost.");
    for (int i = 0; i < FP_ROLES; i++)
        fp_metrics_sample(m, "role", fp_role_names[i], lost[i]);
}

static void partitions(const fp_model *model, fp_metrics *m)
{
    uint64_t phases[FP_PHASES] = {0};
    for (size_t i = 0; i < model->part_count; i++) {
        phases[model->parts[i]->r.phase] += fp_part_is_there(model->parts[i]);
    }
    fp_metrics_begin(m, FP_METRIC_GAUGE, "partitions", "Partitions in a phase.");
    for (int i = 0; i < FP_PHASES; i++)
        fp_metrics_sample(m, "phase", fp_phase_names[i], phases[i]);
    fp_metrics_begin(m, FP_METRIC_GAUGE, "partition_epoch", "Epoch of a partition.");
    for (size_t i = 0; i < model->part_count; i++) {
        if (model->parts[i]->r.state != FP_DELETED)
            fp_metrics_sample_of(m, "partition", model->parts[i]->r.id, model->parts[i]->r.epoch);
    }
}

void fp_coordinator_metrics(const fp_coordinator *c, fp_metrics *m)
{
    m->prefix = "farpool_coordinator_";
    bool leads = fp_coordinator_leads(c);
    fp_metrics_gauge(m, "leads", "1: this one leads.", leads);
    fp_metrics_gauge(m, "term", "Of this one who leads; 0: it does not.",
                     leads ? c->model.term : 0);
    fp_metrics_counter(m, "transactions_total", "Changes that were written.", c->counted.written);
    fp_metrics_counter(
        m, "transactions_doubtful_total",
        "Changes of which it was not known whether they were written, or which others "
        "had overtaken.",
        c->counted.doubts);
    fp_metrics_counter(m, "failovers_total",
                       "Partitions that got another owner because of a failure.",
                       c->counted.failovers);
    fp_metrics_counter(m, "fenced_total", "Epochs from which enough log rings were fenced.",
                       c->counted.fenced);
    fp_metrics_counter(m, "changed_total", "Changes of a partition's memory nodes that were made.",
                       c->counted.changed);
    fp_server_metrics(&c->server, m);
    if (!leads)
        return;
    nodes(&c->model, m);
    partitions(&c->model, m);
    json_t *stalled = fp_status_stalled(&c->model);
    fp_metrics_gauge(m, "stalled", "Sentences of the status about what is not as it is to be.",
                     json_array_size(stalled));
    json_decref(stalled);
}
