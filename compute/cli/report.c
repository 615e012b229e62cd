/* SPDX-License-Identifier: Apache-2.0 */
#include "compute/cli/report.h"

#include <jansson.h>
#include <stdio.h>

#include "common/error.h"

static double us(const farpool_latency *latency, double q)
{
    return (double)farpool_latency_quantile(latency, q) / 1000;
}

static double hit_rate(const farpool_stats *stats)
{
    uint64_t all = stats->hits + stats->misses;
    return all ? 100.0 * (double)stats->hits / (double)all : 0;
}

static double mib(uint64_t bytes) { return (double)bytes / 1048576; }

/* What became of the memory node that was taken in again. */
static const char *filled_text(const cli_comeback *c, char text[64])
{
    if (c->filled_seconds > 0)
        snprintf(text, 64, "filled again in %.2f s", c->filled_seconds);
    else
        snprintf(text, 64, "not filled again before the writes ended");
    return text;
}

static void survived_table(const cli_survived *s)
{
    char filled[64];
    if (!s->ran) {
        printf("\nsurvive: left out: %s.\n", s->left_out);
        return;
    }
    printf("\nsurvive: %d memory nodes, each with a log ring (acknowledged: %d have it) and "
           "spilling to a "
           "storage node\n",
           CLI_SURVIVE_NODES, CLI_SURVIVE_QUORUM);
    printf("  kill -9 of the compute process: opened again in %.1f ms, first record after %.1f ms, "
           "all "
           "%llu records compared\n"
           "      in %.2f s: nothing lost of %llu acknowledged writes\n",
           s->compute.open_ms, s->compute.first_ms, (unsigned long long)s->compute.records,
           s->compute.compared_seconds, (unsigned long long)s->compute.writes);
    printf("  kill -9 of a memory node, which is back and taken in again, in %.1f ms, while the "
           "compute process writes\n"
           "      (%s), and of another one: %llu writes acknowledged from then on, longest "
           "pause %.1f ms;\n"
           "      all %llu records compared in %.2f s, for which %llu pages came from the storage "
           "node: nothing lost\n",
           s->memnode.taken_ms, filled_text(&s->memnode, filled),
           (unsigned long long)s->memnode.writes, s->memnode.pause_ms,
           (unsigned long long)s->memnode.records, s->memnode.compared_seconds,
           (unsigned long long)s->memnode.from_storage);
    printf(
        "  kill -9 of everything: opened from the storage node in %.1f ms, first record after %.1f "
        "ms, "
        "all %llu records\n"
        "      compared in %.2f s (%llu pages from the storage node): nothing lost of %llu writes "
        "acknowledged as durable on storage\n",
        s->all.open_ms, s->all.first_ms, (unsigned long long)s->all.records,
        s->all.compared_seconds, (unsigned long long)s->all.from_storage,
        (unsigned long long)s->all.writes);
}

static json_t *comeback_json(const cli_comeback *c)
{
    json_t *json = json_pack("{s:I, s:I, s:I, s:f}", "writes", (json_int_t)c->writes, "records",
                             (json_int_t)c->records, "pages_from_storage",
                             (json_int_t)c->from_storage, "compared_seconds", c->compared_seconds);
    if (c->open_ms > 0) {
        json_object_set_new(json, "open_ms", json_real(c->open_ms));
        json_object_set_new(json, "first_record_ms", json_real(c->first_ms));
    } else {
        json_object_set_new(json, "longest_pause_ms", json_real(c->pause_ms));
        json_object_set_new(json, "taken_in_ms", json_real(c->taken_ms));
        if (c->filled_seconds > 0)
            json_object_set_new(json, "filled_again_seconds", json_real(c->filled_seconds));
    }
    return json;
}

static json_t *survived_json(const cli_report *report)
{
    const cli_survived *s = &report->survived;
    if (!report->survive)
        return json_null();
    if (!s->ran)
        return json_pack("{s:s}", "left_out", s->left_out);
    return json_pack("{s:i, s:i, s:o, s:o, s:o}", "memory_nodes", CLI_SURVIVE_NODES, "quorum",
                     CLI_SURVIVE_QUORUM, "compute_killed", comeback_json(&s->compute),
                     "memory_node_killed", comeback_json(&s->memnode), "all_killed",
                     comeback_json(&s->all));
}

void cli_report_table(const cli_report *report)
{
    uint64_t read = 0, written = 0;
    printf(
        "\n%zu records, %.1f MiB, from %s; pool %.1f MiB (1/%.1f of it), mapping %s, over %s\n\n",
        report->input->count, mib(report->input->bytes), report->source, mib(report->pool_bytes),
        (double)report->input->bytes / (double)report->pool_bytes, report->mapping,
        report->transport);
    printf("                                           fault latency, us         moved, MiB\n");
    printf("  phase              ops/s     hit rate     p50     p99   p99.9     in      out\n");
    for (unsigned i = 0; i < report->count; i++) {
        const cli_result *r = &report->results[i];
        printf("  %-16s %9.0f     %6.2f %% %7.1f %7.1f %7.1f %7.1f %8.1f\n", r->name,
               (double)r->ops / r->seconds, hit_rate(&r->delta), us(&r->delta.fault, 0.5),
               us(&r->delta.fault, 0.99), us(&r->delta.fault, 0.999), mib(r->delta.bytes_read),
               mib(r->delta.bytes_written));
        read += r->delta.bytes_read;
        written += r->delta.bytes_written;
    }
    printf("\nHit rate counts pages: a lookup touches three or four, of which the upper ones are "
           "always "
           "here.\n");
    if (report->verified)
        printf("Every record %s equals its input.\n",
               report->kept
                   ? "was read back, some from the pool (--slab leaves no room to empty it), and"
                   : "went out to the memory nodes, came back and");
    if (report->pool_bytes > report->input->bytes / 8)
        printf(
            "The pool is larger than 1/8 of the data, so these numbers say little: more data, or a "
            "smaller --pool.\n");
    printf("%.1f MiB came from and %.1f MiB went to the memory nodes; their CPUs touched %llu "
           "bytes of "
           "that",
           mib(read), mib(written), (unsigned long long)report->node_data_bytes);
    if (report->node_cpu_seconds < 0)
        printf(".\nTheir CPU time is not known here: they were not started by this command.\n");
    else
        printf("\nand were busy for %.2f s.\n", report->node_cpu_seconds);
    if (report->survive)
        survived_table(&report->survived);
}

int cli_report_json(const cli_report *report)
{
    json_t *phases = json_array();
    for (unsigned i = 0; i < report->count; i++) {
        const cli_result *r = &report->results[i];
        json_array_append_new(
            phases, json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I}", "phase",
                              r->name, "operations", (json_int_t)r->ops, "seconds", r->seconds,
                              "ops_per_second", (double)r->ops / r->seconds, "hit_percent",
                              hit_rate(&r->delta), "fault_p50_us", us(&r->delta.fault, 0.5),
                              "fault_p99_us", us(&r->delta.fault, 0.99), "fault_p999_us",
                              us(&r->delta.fault, 0.999), "misses", (json_int_t)r->delta.misses,
                              "bytes_in", (json_int_t)r->delta.bytes_read, "bytes_out",
                              (json_int_t)r->delta.bytes_written));
    }
    json_t *cpu = report->node_cpu_seconds < 0 ? json_null() : json_real(report->node_cpu_seconds);
    json_t *all = json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:s, s:s, s:i, s:b, s:b, s:o, s:I, s:o, s:o}", "source",
        report->source, "records", (json_int_t)report->input->count, "bytes",
        (json_int_t)report->input->bytes, "duplicates", (json_int_t)report->input->duplicates,
        "pool_bytes", (json_int_t)report->pool_bytes, "transport", report->transport, "mapping",
        report->mapping, "threads", (int)report->threads, "verified", report->verified,
        "all_went_out", report->verified && !report->kept, "memnode_cpu_seconds", cpu,
        "memnode_cpu_bytes", (json_int_t)report->node_data_bytes, "phases", phases, "survive",
        survived_json(report));
    int bad = !all || json_dumpf(all, stdout, JSON_INDENT(2)) || putchar('\n') == EOF;
    json_decref(all);
    return bad ? fp_error(FARPOOL_E_SYS, "writing JSON to standard output failed") : 0;
}
