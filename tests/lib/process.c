/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/process.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void choose_address(const char *scheme, char *listen, size_t size)
{
    static unsigned number;
    if (!strcmp(scheme, "shm"))
        snprintf(listen, size, "shm:///tmp/farpool-process-%d-%u.sock", (int)getpid(), ++number);
    else
        snprintf(listen, size, "%s://%s:0", scheme,
                 !strcmp(scheme, "verbs") ? "10.77.0.1" : "127.0.0.1");
}

enum { OPTIONS_MAX = 4 };

/* The program with these options, as many as there are before NULL, beside the address. */
static void start(test_process *process, const char *uri, const char *program,
                  const char *const options[OPTIONS_MAX])
{
    char path[4096], listen[256], fd[16], line[1024] = "";
    const char *build = getenv("FARPOOL_BUILD");
    int fds[2];
    REQUIRE(pipe(fds) == 0);
    snprintf(path, sizeof path, "%s/%s", build ? build : "build", program);
    if (strstr(uri, "://"))
        snprintf(listen, sizeof listen, "%s", uri);
    else
        choose_address(uri, listen, sizeof listen);
    snprintf(fd, sizeof fd, "%d", fds[1]);
    process->pid = fork();
    REQUIRE(process->pid >= 0);
    if (!process->pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(path, path, "--listen", listen, "--ready-fd", fd, "--log-level", "error", options[0],
              options[1], options[2], options[3], (char *)NULL);
        perror(path);
        _exit(127);
    }
    close(fds[1]);
    FILE *ready = fdopen(fds[0], "r");
    REQUIRE(ready && fgets(line, sizeof line, ready));
    fclose(ready);
    const char *list = strstr(line, "\"listen\"");
    const char *bound = list ? strstr(list, "://") : NULL;
    REQUIRE(bound);
    while (bound[-1] != '"')
        bound--;
    snprintf(process->uri, sizeof process->uri, "%.*s", (int)strcspn(bound, "\""), bound);
}

void test_process_start(test_process *process, const char *uri, unsigned memory_kib)
{
    test_process_start_spilling(process, uri, memory_kib, NULL);
}

void test_process_start_spilling(test_process *process, const char *uri, unsigned memory_kib,
                                 const char *storage)
{
    char memory[32];
    snprintf(memory, sizeof memory, "%uk", memory_kib);
    const char *options[OPTIONS_MAX] = {"--memory", memory, storage ? "--storage" : NULL, storage};
    start(process, uri, "farpool-memnode", options);
}

void test_process_start_storage(test_process *process, const char *uri, const char *volume)
{
    const char *options[OPTIONS_MAX] = {"--volume", volume};
    start(process, uri, "farpool-storagenode", options);
}

int test_process_end(test_process *process, int signal)
{
    int status;
    REQUIRE(kill(process->pid, signal) == 0);
    REQUIRE(waitpid(process->pid, &status, 0) == process->pid);
    return status;
}

void test_process_schemes(void (*run)(const char *scheme))
{
    const char *scheme = getenv("FARPOOL_TEST_SCHEME");
    run(scheme ? scheme : "shm");
    if (!scheme)
        run("tcp");
}
