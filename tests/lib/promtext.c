/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/promtext.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/require.h"

enum { NAME_MAX_BYTES = 200, FAMILIES_MAX = 500, WAIT_S = 60 };

typedef struct family {
    char name[NAME_MAX_BYTES], type[16];
    unsigned samples;
    double bucket, inf, sum, count, upto; /* of a histogram */
    bool has_inf, has_sum, has_count;
} family;

typedef struct reader {
    const char *text, *line, *end; /* of the line */
    family families[FAMILIES_MAX];
    unsigned count;
    const char *wrong;
} reader;

static bool fail(reader *r, const char *why)
{
    if (!r->wrong)
        r->wrong = why;
    return false;
}

/* A name at *at, which moves behind it. */
static bool take_name(const char **at, char *name, bool colon)
{
    const char *begin = *at;
    while (isalpha((unsigned char)**at) || **at == '_' || (colon && **at == ':') ||
           (*at > begin && isdigit((unsigned char)**at)))
        (*at)++;
    size_t len = (size_t)(*at - begin);
    if (!len || len >= NAME_MAX_BYTES)
        return false;
    memcpy(name, begin, len);
    name[len] = 0;
    return true;
}

static bool ends_in(const char *name, const char *suffix)
{
    size_t len = strlen(name), tail = strlen(suffix);
    return len > tail && !strcmp(name + len - tail, suffix);
}

/* The family that has been begun is over. */
static bool close_family(reader *r)
{
    const family *f = r->count ? &r->families[r->count - 1] : NULL;
    if (!f)
        return true;
    if (!f->type[0])
        return fail(r, "a HELP line without a TYPE line");
    if (strcmp(f->type, "histogram") != 0)
        return true;
    if (!f->has_inf || !f->has_sum || !f->has_count || f->inf != f->count)
        return fail(r, "a histogram without +Inf, _sum or _count, or they disagree");
    return true;
}

static bool read_help(reader *r, const char *at)
{
    char name[NAME_MAX_BYTES];
    if (!close_family(r))
        return false;
    if (!take_name(&at, name, true) || *at++ != ' ' || at >= r->end)
        return fail(r, "HELP NAME TEXT expected");
    for (unsigned i = 0; i < r->count; i++)
        if (!strcmp(r->families[i].name, name))
            return fail(r, "a metric that was there before");
    for (; at < r->end; at++)
        if (*at == '\\' && *++at != '\\' && *at != 'n')
            return fail(r, "a backslash in HELP");
    REQUIRE(r->count < FAMILIES_MAX);
    family *f = &r->families[r->count++];
    *f = (family){.upto = -1};
    strcpy(f->name, name);
    return true;
}

static bool read_type(reader *r, const char *at)
{
    char name[NAME_MAX_BYTES], type[NAME_MAX_BYTES];
    family *f = r->count ? &r->families[r->count - 1] : NULL;
    if (!take_name(&at, name, true) || *at++ != ' ' || !take_name(&at, type, false) || at != r->end)
        return fail(r, "TYPE NAME TYPE expected");
    if (!f || strcmp(f->name, name) != 0 || f->type[0])
        return fail(r, "TYPE must follow the HELP of the same name");
    if (strcmp(type, "gauge") != 0 && strcmp(type, "counter") != 0 &&
        strcmp(type, "histogram") != 0)
        return fail(r, "an unknown type");
    if (!strcmp(type, "counter") != ends_in(name, "_total"))
        return fail(r, "counters, and nothing else, end in _total");
    strcpy(f->type, type);
    return true;
}

/* One label in braces; its value as it stands there. */
static bool read_label(reader *r, const char **at, char *label, char *value)
{
    size_t len = 0;
    (*at)++;
    if (!take_name(at, label, false) || *(*at)++ != '=' || *(*at)++ != '"')
        return fail(r, "{label=\"value\"} expected");
    for (; *at < r->end && **at != '"'; (*at)++) {
        if (**at == '\\') {
            (*at)++;
            if (!**at || !strchr("\\\"n", **at))
                return fail(r, "a backslash in a label");
        }
        if (len + 1 < NAME_MAX_BYTES)
            value[len++] = **at;
    }
    value[len] = 0;
    if (*at + 2 > r->end || *(*at)++ != '"' || *(*at)++ != '}')
        return fail(r, "a label without an end");
    return true;
}

static bool read_number(const char *at, const char *end, double *value)
{
    if (!isdigit((unsigned char)*at))
        return false;
    for (const char *c = at; c < end; c++)
        if (!isdigit((unsigned char)*c) && *c != '.')
            return false;
    char *stop;
    *value = strtod(at, &stop);
    return stop == end;
}

static bool read_histogram(reader *r, family *f, const char *suffix, const char *le, double value)
{
    if (!strcmp(suffix, "_sum")) {
        f->sum = value;
        f->has_sum = true;
    } else if (!strcmp(suffix, "_count")) {
        f->count = value;
        f->has_count = true;
    } else if (strcmp(suffix, "_bucket") != 0) {
        return fail(r, "a sample that a histogram does not have");
    } else if (!strcmp(le, "+Inf")) {
        f->inf = value;
        f->has_inf = true;
        return value >= f->bucket ? true : fail(r, "+Inf is below the last bucket");
    } else {
        double upto = strtod(le, NULL);
        if (f->has_inf || upto <= f->upto || value < f->bucket)
            return fail(r, "buckets must rise");
        f->upto = upto;
        f->bucket = value;
    }
    return true;
}

/* Not by strchr and strncmp, which look at all of the text each time where sanitizers check strings strictly. */
static bool seen_before(const reader *r, size_t series_len)
{
    const char *line = r->text;
    while (line < r->line) {
        size_t left = (size_t)(r->line - line);
        if (left > series_len && !memcmp(line, r->line, series_len) && line[series_len] == ' ')
            return true;
        line = (const char *)memchr(line, '\n', left) + 1;
    }
    return false;
}

static bool read_sample(reader *r)
{
    char name[NAME_MAX_BYTES], label[NAME_MAX_BYTES] = "", text[NAME_MAX_BYTES] = "";
    const char *at = r->line;
    double value;
    family *f = r->count ? &r->families[r->count - 1] : NULL;
    if (!take_name(&at, name, true))
        return fail(r, "a name expected");
    if (!f || !f->type[0] || strncmp(name, f->name, strlen(f->name)) != 0)
        return fail(r, "a sample without its TYPE before it");
    if (*at == '{' && !read_label(r, &at, label, text))
        return false;
    size_t series_len = (size_t)(at - r->line);
    if (*at++ != ' ' || !read_number(at, r->end, &value))
        return fail(r, "a number expected");
    if (seen_before(r, series_len))
        return fail(r, "a series that was there before");
    f->samples++;
    const char *suffix = name + strlen(f->name);
    if (!strcmp(f->type, "histogram"))
        return !strcmp(label, strcmp(suffix, "_bucket") != 0 ? "" : "le")
                   ? read_histogram(r, f, suffix, text, value)
                   : fail(r, "le belongs to buckets");
    return *suffix ? fail(r, "a sample of another metric") : true;
}

static bool read_line(reader *r)
{
    if (!strncmp(r->line, "# HELP ", 7))
        return read_help(r, r->line + 7);
    if (!strncmp(r->line, "# TYPE ", 7))
        return read_type(r, r->line + 7);
    return read_sample(r);
}

const char *promtext_error(const char *text)
{
    static char message[400];
    static reader r;
    r = (reader){.text = text};
    for (r.line = text; *r.line && !r.wrong; r.line = r.end + 1) {
        r.end = strchr(r.line, '\n');
        if (!r.end)
            return "the last line has no end";
        read_line(&r);
        if (r.wrong)
            break;
    }
    if (!r.wrong)
        close_family(&r);
    if (!r.wrong)
        return NULL;
    snprintf(message, sizeof message, "%s: %.*s", r.wrong, (int)strcspn(r.line, "\n"), r.line);
    return message;
}

bool promtext_value(const char *text, const char *series, double *value)
{
    size_t len = strlen(series);
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        if (!strncmp(line, series, len) && line[len] == ' ') {
            *value = strtod(line + len, NULL);
            return true;
        }
    }
    return false;
}

/* ---- over HTTP ------------------------------------------------------------------------------- */

char *http_request(const char *address, const char *method, const char *path)
{
    char request[512];
    size_t len = 0, room = 1 << 20;
    char *answer = malloc(room);
    const char *colon = strrchr(address, ':');
    REQUIRE(answer && colon);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(colon + 1)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(fd >= 0 && !connect(fd, (struct sockaddr *)&to, sizeof to));
    /* Who is never answered fails the test, and does not hang it. */
    REQUIRE(!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = WAIT_S},
                        sizeof(struct timeval)));
    int n = snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", method, path,
                     address);
    REQUIRE(send(fd, request, (size_t)n, MSG_NOSIGNAL) == n);
    errno = 0;
    for (ssize_t got; (got = recv(fd, answer + len, room - len - 1, 0)) > 0;) {
        len += (size_t)got;
        REQUIRE(len < room - 1);
    }
    REQUIRE(errno != EAGAIN);
    close(fd);
    answer[len] = 0;
    return answer;
}

char *promtext_get(const char *address)
{
    char *answer = http_request(address, "GET", "/metrics");
    const char *body = strstr(answer, "\r\n\r\n");
    REQUIRE(!strncmp(answer, "HTTP/1.1 200 ", 13) && body);
    memmove(answer, body + 4, strlen(body + 4) + 1);
    const char *wrong = promtext_error(answer);
    if (wrong)
        fprintf(stderr, "%s\n", wrong);
    REQUIRE(!wrong);
    return answer;
}
