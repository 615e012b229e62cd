/* SPDX-License-Identifier: Apache-2.0 */
/* What goes on until it is ended: top, and events --follow. */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "common/error.h"
#include "coordinator/ctl/ctl.h"

enum { EACH_MS = 1000, EVENTS_WAIT_MS = 10000 };

/* ---- top ----------------------------------------------------------------------------------------- */

/* A terminal while it is drawn on: its alternate screen, no wrapping of long lines, keys as they come. */
typedef struct screen {
    bool on;
    struct termios before;
    int signal_fd; /* what would end the process comes here, so that the terminal is given back first */
} screen;

static int screen_open(fp_ctl *ctl, screen *s)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    *s = (screen){.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)};
    if (s->signal_fd < 0 || sigprocmask(SIG_BLOCK, &set, NULL))
        return fp_error_sys("opening a signalfd");
    s->on = ctl->io->out_terminal && ctl->io->in_terminal && !ctl->json &&
            !tcgetattr(STDIN_FILENO, &s->before);
    if (!s->on)
        return 0;
    struct termios raw = s->before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    fputs("\033[?1049h\033[?7l", ctl->io->out);
    return 0;
}

static void screen_close(fp_ctl *ctl, const screen *s)
{
    if (s->on) {
        fputs("\033[?7h\033[?1049l", ctl->io->out);
        fflush(ctl->io->out);
        tcsetattr(STDIN_FILENO, TCSANOW, &s->before);
    }
    close(s->signal_fd);
}

/* As many lines as there is room for. */
static void draw(fp_ctl *ctl, const screen *s, const char *text)
{
    struct winsize size = {0};
    FILE *out = ctl->io->out;
    if (!s->on) {
        fputs(text, out);
        putc('\n', out);
        fflush(out);
        return;
    }
    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    fputs("\033[H\033[J", out);
    for (unsigned row = 1; *text && (!size.ws_row || row < size.ws_row); row++) {
        size_t len = strcspn(text, "\n");
        fprintf(out, "%.*s\n", (int)len, text);
        text += len + (text[len] == '\n');
    }
    fflush(out);
}

/* One picture; that nobody answers is one, too. An exit status. */
static int top_once(fp_ctl *ctl, const screen *s)
{
    json_t *status;
    char *text = NULL, when[40];
    size_t len;
    time_t now = time(NULL);
    struct tm local;
    int rc = fp_ctl_ask(ctl, fp_ctl_call(ctl), ctl->timeout_ms, &status);
    if (ctl->json) {
        if (rc)
            return fp_ctl_failed(ctl, rc);
        fp_ctl_json(ctl, status, true);
        fflush(ctl->io->out);
        json_decref(status);
        return FP_CTL_DONE;
    }
    FILE *page = open_memstream(&text, &len);
    if (page) {
        localtime_r(&now, &local);
        strftime(when, sizeof when, "%H:%M:%S", &local);
        fprintf(page, "%s  ", when);
        if (rc)
            fprintf(page, "%s (%s)\n", farpool_errmsg(), fp_error_name(rc));
        else
            fp_show_status(page, status, true);
        fclose(page);
        draw(ctl, s, text);
    }
    free(text);
    json_decref(status);
    return FP_CTL_DONE;
}

/* Until the next picture. True: it is to end. */
static bool top_rest(const screen *s)
{
    struct pollfd fds[2] = {{.fd = s->signal_fd, .events = POLLIN},
                            {.fd = s->on ? STDIN_FILENO : -1, .events = POLLIN}};
    char key;
    if (poll(fds, 2, EACH_MS) <= 0)
        return false;
    if (fds[0].revents)
        return true;
    return read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q';
}

int fp_ctl_top(fp_ctl *ctl)
{
    screen s;
    int rc = screen_open(ctl, &s), status;
    if (rc)
        return fp_ctl_failed(ctl, rc);
    do {
        status = top_once(ctl, &s);
    } while (status == FP_CTL_DONE && !ferror(ctl->io->out) && !top_rest(&s));
    screen_close(ctl, &s);
    return status;
}

/* ---- events -------------------------------------------------------------------------------------- */

/* Those of one answer. *next: where to go on. Their number, or -1: that is no answer to this. */
static int show_events(fp_ctl *ctl, const json_t *answer, json_int_t *next)
{
    size_t i;
    json_t *event;
    const json_t *events = json_object_get(answer, "events");
    const json_t *following = json_object_get(answer, "next");
    if (!json_is_array(events) || !json_is_integer(following))
        return -1;
    json_array_foreach(events, i, event)
    {
        if (ctl->json)
            fp_ctl_json(ctl, event, true);
        else
            fp_show_event(ctl->io->out, event);
    }
    fflush(ctl->io->out);
    bool further = json_integer_value(following) > *next;
    *next = json_integer_value(following);
    return json_array_size(events) && !further ? -1 : (int)json_array_size(events);
}

int fp_ctl_events(fp_ctl *ctl)
{
    static const struct timespec pause = {.tv_sec = 1};
    json_int_t next = fp_json_number(ctl->call, "from");
    unsigned wait_ms = 0; /* those that there are come first */
    bool away = false;
    while (!ferror(ctl->io->out)) {
        json_t *answer, *call = fp_ctl_call(ctl);
        if (call && (json_object_set_new(call, "from", json_integer(next)) ||
                     json_object_set_new(call, "wait_ms", json_integer(wait_ms)))) {
            json_decref(call);
            call = NULL;
        }
        int rc = fp_ctl_ask(ctl, call, ctl->timeout_ms + wait_ms, &answer);
        if (rc && !(ctl->follow && fp_ctl_passes(rc)))
            return fp_ctl_failed(ctl, rc);
        if (rc) {
            /* Those who follow want to see what comes after just that. */
            if (!away)
                fp_ctl_failed(ctl, rc);
            away = true;
            nanosleep(&pause, NULL);
            continue;
        }
        away = false;
        int count = show_events(ctl, answer, &next);
        json_decref(answer);
        if (count < 0)
            return fp_ctl_nonsense(ctl);
        if (!count && !ctl->follow)
            return FP_CTL_DONE;
        wait_ms = count ? 0 : EVENTS_WAIT_MS;
    }
    return FP_CTL_DONE;
}
