/* SPDX-License-Identifier: Apache-2.0 */
/*
 * farpool: loads a file into memory nodes and works on it through a small pool.
 *
 * Its partitions have no redo log and do not outlive it, so every command loads its file first; but for the
 * demo's phase "survive" (survive.h), which shows partitions that do.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config.h"
#include "common/error.h"
#include "compute/cli/key.h"
#include "compute/cli/report.h"
#include "compute/cli/serve.h"

enum {
    EXIT_BAD = 1,
    EXIT_USAGE = 2,
    EXIT_NOT_FOUND = 3,
    POOL_MIN = 1 << 20,
};

typedef struct options {
    const char *command, *file;
    char **rest;
    int rest_count;
    const char *memnodes[CLI_NODES_MAX];
    unsigned memnode_count, own_nodes;
    const char *transport, *host, *mapping, *from, *key_file;
    uint64_t pool_bytes, slab_bytes, count, epoch;
    cli_target target;
    bool json, reverse;
} options;

typedef struct session {
    cli_nodes nodes;
    cli_input input;
    farpool_pool *pool;
    farpool_partition *partition;
    farpool_btree *tree;
    double cpu_before;
    uint64_t data_before; /* page bytes that the nodes' CPUs had moved when we came */
    cli_report report;
} session;

static const char help[] =
    "farpool COMMAND FILE [OPTIONS]: keeps a file's records in the memory of other machines and "
    "works on\n"
    "them through a buffer pool much smaller than the data.\n"
    "\n"
    "  demo FILE          load, verify, look up, scan, mixed load, verify again; before that, "
    "kills "
    "compute\n"
    "                     process, memory nodes and a storage node under load, and compares what "
    "is "
    "left\n"
    "                     with what was acknowledged; ends with a table\n"
    "  load FILE          load and verify\n"
    "  bench FILE         load, a mixed load, verify\n"
    "  get FILE KEY...    load, then print the values of the keys, one a line\n"
    "  scan FILE          load, then print records in order, KEY<tab>VALUE\n"
    "  serve              a compute node that follows coordinators: see farpool serve --help\n"
    "  key NAME           print a key file for NAME, made of the secret that --key-file names\n"
    "\n"
    "FILE holds package records (as from 'apt-cache dumpavail'; the key is NAME=VERSION, or "
    "NAME:ARCH=VERSION\n"
    "where that is ambiguous), KEY<tab>VALUE, or plain lines, whose key is the line's number in 12 "
    "digits; which\n"
    "of them is seen from its first line. '-' is standard input. Nothing is kept: the partitions "
    "have no\n"
    "redo log and live as long as the process that opened them, but for those that demo kills.\n"
    "\n"
    "  --memnode URI      a memory node to use: verbs://HOST:PORT, tcp://HOST:PORT or shm:///PATH; "
    "may be\n"
    "                     given up to 16 times. Without it, two are started on this machine for "
    "the time;\n"
    "                     with it, demo kills nothing\n"
    "  --key-file FILE    of this program's key, or of the cluster's secret, for nodes that have "
    "it\n"
    "  --transport T      of those: shm (default), tcp or verbs\n"
    "  --host ADDRESS     where those listen, for tcp and verbs (default 127.0.0.1)\n"
    "  --epoch N          fencing token: higher than that of the partition's last owner (default "
    "1)\n"
    "  --pool SIZE        local memory for pages, with k, m or g (default: 1/8 of the data, at "
    "least 1m)\n"
    "  --slab SIZE        memory asked of the memory nodes together (default: by the data)\n"
    "  --mapping M        frames (default) or vm\n"
    "  --threads N        1 to 64 (default 2)\n"
    "  --seconds S        of each timed phase (default 3)\n"
    "  --read-percent P   reads of the mixed load, 0 to 100 (default 90)\n"
    "  --zipf T           skew, 0 (uniform) to 0.999 (default 0.99)\n"
    "  --from KEY, --count N, --reverse   for scan\n"
    "  -o json            one JSON object instead of a table\n"
    "  -q, --quiet        no progress       -h, --help       --version\n"
    "\n"
    "Exit code: 0; 1 something failed (said on stderr); 2 wrong usage; 3 get: a key is not there.\n"
    "\n"
    "  apt-cache dumpavail > packages; farpool demo packages\n"
    "  farpool get packages 'bash=5.2.15-2+b10' --memnode tcp://10.0.0.7:7471\n";

static int wrong(const char *text, const char *value)
{
    fprintf(stderr, "farpool: %s '%s'; see farpool --help\n", text, value);
    return EXIT_USAGE;
}

static bool number(const char *text, double min, double max, double *value)
{
    char *end;
    *value = strtod(text, &end);
    return end != text && !*end && *value >= min && *value <= max;
}

enum {
    MEMNODE = 256,
    KEY_FILE,
    TRANSPORT,
    HOST,
    EPOCH,
    POOL,
    SLAB,
    MAPPING,
    THREADS,
    SECONDS,
    READS,
    ZIPF,
    FROM,
    COUNT,
    REVERSE,
    VERSION
};

static const struct option longs[] = {
    {"memnode", required_argument, NULL, MEMNODE},
    {"key-file", required_argument, NULL, KEY_FILE},
    {"transport", required_argument, NULL, TRANSPORT},
    {"host", required_argument, NULL, HOST},
    {"epoch", required_argument, NULL, EPOCH},
    {"pool", required_argument, NULL, POOL},
    {"slab", required_argument, NULL, SLAB},
    {"mapping", required_argument, NULL, MAPPING},
    {"threads", required_argument, NULL, THREADS},
    {"seconds", required_argument, NULL, SECONDS},
    {"read-percent", required_argument, NULL, READS},
    {"zipf", required_argument, NULL, ZIPF},
    {"from", required_argument, NULL, FROM},
    {"count", required_argument, NULL, COUNT},
    {"reverse", no_argument, NULL, REVERSE},
    {"output", required_argument, NULL, 'o'},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, VERSION},
    {NULL, 0, NULL, 0},
};

static int one_of(const char *value, const char *a, const char *b, const char *c)
{
    return !strcmp(value, a) || !strcmp(value, b) || (c && !strcmp(value, c));
}

/* Numbers and sizes. Returns false for a bad value. */
static bool set_number(options *o, int name, const char *value)
{
    uint64_t n;
    switch (name) {
    case POOL:
        return !fp_config_size(value, &o->pool_bytes) && o->pool_bytes >= POOL_MIN;
    case SLAB:
        return !fp_config_size(value, &o->slab_bytes) && o->slab_bytes;
    case EPOCH:
        return !fp_config_number(value, 1, UINT64_MAX, &o->epoch);
    case COUNT:
        return !fp_config_number(value, 1, UINT64_MAX, &o->count);
    case THREADS:
        if (fp_config_number(value, 1, 64, &n))
            return false;
        o->target.threads = (unsigned)n;
        return true;
    case SECONDS:
        return number(value, 0.01, 86400, &o->target.seconds);
    case READS:
        if (fp_config_number(value, 0, 100, &n))
            return false;
        o->target.read_percent = (unsigned)n;
        return true;
    default:
        return number(value, 0, 0.999, &o->target.zipf);
    }
}

static int set(options *o, int name, const char *value)
{
    switch (name) {
    case MEMNODE:
        if (o->memnode_count == CLI_NODES_MAX)
            return wrong("too many memory nodes: this is one over 16:", value);
        o->memnodes[o->memnode_count++] = value;
        return 0;
    case KEY_FILE:
        o->key_file = value;
        return 0;
    case TRANSPORT:
        o->transport = value;
        return one_of(value, "shm", "tcp", "verbs")
                   ? 0
                   : wrong("--transport is shm, tcp or verbs, not", value);
    case HOST:
        o->host = value;
        return 0;
    case MAPPING:
        o->mapping = value;
        return one_of(value, "frames", "vm", NULL) ? 0
                                                   : wrong("--mapping is frames or vm, not", value);
    case FROM:
        o->from = value;
        return 0;
    case REVERSE:
        o->reverse = true;
        return 0;
    case 'q':
        o->target.quiet = true;
        return 0;
    case 'o':
        o->json = true;
        return one_of(value, "json", "json", NULL) ? 0 : wrong("-o knows only json, not", value);
    default:
        return set_number(o, name, value) ? 0 : wrong("value out of range or no number:", value);
    }
}

/* 0: go on; otherwise the exit code + 1, so that --help can be told from it. */
static int parse(int argc, char **argv, options *o)
{
    *o = (options){.transport = "shm",
                   .host = "127.0.0.1",
                   .mapping = "frames",
                   .own_nodes = 2,
                   .epoch = 1,
                   .count = 20};
    o->target = (cli_target){.threads = 2, .seconds = 3, .zipf = 0.99, .read_percent = 90};
    int c, rc;
    while ((c = getopt_long(argc, argv, "o:qh", longs, NULL)) != -1) {
        if (c == 'h') {
            fputs(help, stdout);
            return 1;
        }
        if (c == VERSION) {
            printf("farpool %d.%d.%d\n", FARPOOL_VERSION_MAJOR, FARPOOL_VERSION_MINOR,
                   FARPOOL_VERSION_PATCH);
            return 1;
        }
        if (c == '?') {
            fputs("farpool: see farpool --help\n", stderr);
            return EXIT_USAGE + 1;
        }
        rc = set(o, c, optarg);
        if (rc)
            return rc + 1;
    }
    if (argc - optind < 2) {
        fputs("farpool: a command and a file are needed; see farpool --help\n", stderr);
        return EXIT_USAGE + 1;
    }
    o->command = argv[optind];
    o->file = argv[optind + 1];
    o->rest = argv + optind + 2;
    o->rest_count = argc - optind - 2;
    bool get = !strcmp(o->command, "get"), key = !strcmp(o->command, "key");
    if (!get && !key && !one_of(o->command, "demo", "load", "bench") &&
        strcmp(o->command, "scan") != 0)
        return wrong("no such command:", o->command) + 1;
    if (get != (o->rest_count > 0))
        return wrong(get ? "get: which keys? After" : "one file only; this is too much:",
                     get ? o->file : o->rest[0]) +
               1;
    if (key ? !o->key_file : o->key_file && !o->memnode_count)
        return wrong(key ? "key: needs --key-file, of the secret, for the key of"
                         : "only nodes named by --memnode can have a secret; --key-file",
                     key ? o->file : o->key_file) +
               1;
    return 0;
}

static int open_partition(const options *o, session *s)
{
    farpool_pool_options pool_options;
    farpool_pool_options_init(&pool_options);
    pool_options.pool_bytes = s->report.pool_bytes;
    pool_options.mapping = !strcmp(o->mapping, "vm") ? FARPOOL_MAPPING_VM : FARPOOL_MAPPING_FRAMES;
    pool_options.name = CLI_NAME;
    pool_options.key_file = o->key_file;
    int rc = farpool_pool_open(&pool_options, &s->pool);
    if (rc)
        return rc;
    farpool_partition_options partition_options;
    farpool_partition_options_init(&partition_options);
    partition_options.memnodes = s->nodes.uris;
    partition_options.memnode_count = s->nodes.count;
    partition_options.epoch = o->epoch;
    partition_options.slab_bytes = o->slab_bytes;
    rc = farpool_partition_open(s->pool, &partition_options, &s->partition);
    if (rc)
        return rc;
    farpool_pid root;
    return farpool_btree_create(s->partition, &root, &s->tree);
}

static int read_input(options *o, session *s)
{
    int rc = cli_input_read(o->file, o->target.quiet, &s->input);
    if (rc)
        return rc;
    if (s->input.duplicates && !o->target.quiet)
        fprintf(stderr, "  %zu records were replaced by later ones of the same key\n",
                s->input.duplicates);
    uint64_t pool = s->input.bytes / 8;
    s->report.pool_bytes = o->pool_bytes ? o->pool_bytes : pool < POOL_MIN ? POOL_MIN : pool;
    if (!o->slab_bytes)
        o->slab_bytes = cli_input_slab_bytes(&s->input, s->report.pool_bytes);
    o->target.updates = calloc(s->input.count, sizeof *o->target.updates);
    if (!o->target.updates)
        return fp_error(FARPOOL_E_NOMEM, "%s: no memory for %zu records", o->file, s->input.count);
    return 0;
}

static int run_survive(const options *o, session *s)
{
    cli_survive plan = {.input = &s->input,
                        .transport = o->transport,
                        .host = o->host,
                        .pool_bytes = s->report.pool_bytes,
                        .slab_bytes = o->slab_bytes,
                        .seconds = o->target.seconds,
                        .threads = o->target.threads,
                        .vm = !strcmp(o->mapping, "vm"),
                        .quiet = o->target.quiet};
    s->report.survive = true;
    if (!o->memnode_count)
        return cli_survive_run(&plan, &s->report.survived);
    snprintf(s->report.survived.left_out, sizeof s->report.survived.left_out,
             "it kills memory nodes, and those named by --memnode are not ours");
    return 0;
}

static int open_session(options *o, session *s)
{
    int rc;
    if (o->memnode_count) {
        s->nodes.count = o->memnode_count;
        memcpy(s->nodes.uris, o->memnodes, sizeof o->memnodes);
        rc = o->key_file ? fp_auth_open(o->key_file, CLI_NAME, &s->nodes.auth) : 0;
    } else {
        rc = cli_nodes_start(&s->nodes, o->own_nodes, o->transport, o->host,
                             o->slab_bytes / o->own_nodes * 5 / 4 + (16u << 20), NULL);
    }
    if (!rc)
        rc = open_partition(o, s);
    if (rc)
        return rc;
    s->cpu_before = cli_nodes_cpu(&s->nodes);
    rc = cli_nodes_data_bytes(&s->nodes, &s->data_before);
    if (rc)
        return rc;
    o->target.pool = s->pool;
    o->target.partition = s->partition;
    o->target.tree = s->tree;
    o->target.input = &s->input;
    return 0;
}

static int close_session(const options *o, session *s)
{
    int rc = 0;
    if (s->tree)
        farpool_btree_close(s->tree);
    if (s->partition)
        rc = farpool_partition_close(s->partition);
    if (s->pool && rc != FARPOOL_E_BUSY) {
        int closed = farpool_pool_close(s->pool);
        rc = rc ? rc : closed;
    }
    cli_nodes_stop(&s->nodes);
    fp_auth_close(s->nodes.auth);
    cli_input_free(&s->input);
    free(o->target.updates);
    return rc;
}

static int run_phase(const options *o, session *s, enum cli_phase phase)
{
    int rc = cli_phase_run(&o->target, phase, &s->report.results[s->report.count]);
    if (rc)
        return rc;
    const cli_result *result = &s->report.results[s->report.count++];
    s->report.kept |= result->kept;
    s->report.verified |= phase == CLI_VERIFY || phase == CLI_AGAIN;
    return 0;
}

static int run_phases(const options *o, session *s, enum cli_phase from, enum cli_phase to)
{
    int rc = 0;
    for (enum cli_phase phase = from; phase <= to && !rc; phase++)
        rc = run_phase(o, s, phase);
    if (rc)
        return rc;
    s->report.source = o->file;
    s->report.transport = s->nodes.uris[0];
    s->report.mapping = o->mapping;
    s->report.input = &s->input;
    s->report.threads = o->target.threads;
    s->report.node_cpu_seconds = cli_nodes_cpu(&s->nodes);
    if (s->report.node_cpu_seconds >= 0)
        s->report.node_cpu_seconds -= s->cpu_before;
    rc = cli_nodes_data_bytes(&s->nodes, &s->report.node_data_bytes);
    s->report.node_data_bytes -= rc ? 0 : s->data_before;
    if (!rc && o->json)
        rc = cli_report_json(&s->report);
    else if (!rc)
        cli_report_table(&s->report);
    return rc;
}

static int get_keys(const options *o, session *s, bool *missing)
{
    char *buffer = malloc(FARPOOL_VALUE_MAX);
    if (!buffer)
        return fp_error(FARPOOL_E_NOMEM, "get: no memory for a value");
    int rc = 0;
    for (int i = 0; i < o->rest_count && !rc; i++) {
        size_t len;
        farpool_slice key = {o->rest[i], strlen(o->rest[i])};
        rc = farpool_btree_lookup(s->tree, key, buffer, FARPOOL_VALUE_MAX, &len);
        if (rc == FARPOOL_E_NOTFOUND || rc == FARPOOL_E_TOO_BIG || rc == FARPOOL_E_INVAL) {
            fprintf(stderr, "farpool: no record '%s'\n", o->rest[i]);
            *missing = true;
            rc = 0;
        } else if (!rc) {
            fwrite(buffer, 1, len, stdout);
            putchar('\n');
        }
    }
    free(buffer);
    return rc;
}

static int print_record(void *arg, farpool_slice key, farpool_slice value)
{
    uint64_t *left = arg;
    fwrite(key.data, 1, key.len, stdout);
    putchar('\t');
    fwrite(value.data, 1, value.len, stdout);
    putchar('\n');
    return --*left == 0;
}

static int run(options *o, session *s, bool *missing)
{
    if (!strcmp(o->command, "key"))
        return cli_key_print(o->key_file, o->file);
    int rc = read_input(o, s);
    /* First, for it forks. */
    if (!rc && !strcmp(o->command, "demo"))
        rc = run_survive(o, s);
    if (!rc)
        rc = open_session(o, s);
    if (rc)
        return rc;
    if (!strcmp(o->command, "demo"))
        return run_phases(o, s, CLI_LOAD, CLI_AGAIN);
    if (!strcmp(o->command, "load"))
        return run_phases(o, s, CLI_LOAD, CLI_VERIFY);
    rc = run_phase(o, s, CLI_LOAD);
    if (rc)
        return rc;
    if (!strcmp(o->command, "bench"))
        return run_phases(o, s, CLI_MIXED, CLI_AGAIN);
    if (!strcmp(o->command, "get"))
        return get_keys(o, s, missing);
    uint64_t left = o->count;
    farpool_slice from = {o->from, o->from ? strlen(o->from) : 0};
    return farpool_btree_scan(s->tree, from, o->reverse, print_record, &left);
}

int main(int argc, char **argv)
{
    options o;
    if (argc > 1 && !strcmp(argv[1], "serve"))
        return cli_serve_main(argc - 1, argv + 1);
    int rc = parse(argc, argv, &o);
    if (rc)
        return rc - 1;
    session s = {0};
    bool missing = false;
    rc = run(&o, &s, &missing);
    if (rc)
        fprintf(stderr, "\nfarpool: %s (%s)\n", farpool_errmsg(), fp_error_name(rc));
    int closed = close_session(&o, &s);
    if (closed && !rc)
        fprintf(stderr, "farpool: closing: %s\n", farpool_errmsg());
    if (fflush(stdout) || ferror(stdout)) {
        perror("farpool: writing to standard output");
        return EXIT_BAD;
    }
    return rc || closed ? EXIT_BAD : missing ? EXIT_NOT_FOUND : 0;
}
