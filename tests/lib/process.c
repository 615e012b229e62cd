/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/process.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/secret.h"

static void choose_address(const char *scheme, char *listen, size_t size)
{
    static unsigned number;
    if (!strcmp(scheme, "shm"))
        snprintf(listen, size, "shm:///tmp/farpool-process-%d-%u.sock", (int)getpid(), ++number);
    else
        snprintf(listen, size, "%s://%s:0", scheme,
                 !strcmp(scheme, "verbs") ? "10.77.0.1" : "127.0.0.1");
}

enum { OPTIONS_MAX = 8 + 2 * PROCESS_PEERS_MAX };

/* The program with these options, as many as there are before NULL, beside the address and the secret. */
static void start(test_process *process, const char *uri, const char *program,
                  const char *options[OPTIONS_MAX])
{
    unsigned count = 0;
    while (count < OPTIONS_MAX && options[count])
        count++;
    if (process->watched) {
        REQUIRE(count + 2 <= OPTIONS_MAX);
        options[count] = "--http";
        options[count + 1] = "127.0.0.1:0";
    }

    char path[4096], listen[256], fd[16], line[1024] = "";
    const char *build = getenv("FARPOOL_BUILD"), *secret = test_secret_file();
    const char *all[OPTIONS_MAX + 2] = {"--secret-file", secret};
    memcpy(all + (secret ? 2 : 0), options, OPTIONS_MAX * sizeof *options);
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
        if (process->fault)
            setenv("FARPOOL_FAULT_POINT", process->fault, 1);
        execl(path, path, "--listen", listen, "--ready-fd", fd, "--log-level", "error", all[0],
              all[1], all[2], all[3], all[4], all[5], all[6], all[7], all[8], all[9], all[10],
              all[11], all[12], all[13], (char *)NULL);
        perror(path);
        _exit(127);
    }
    close(fds[1]);
    FILE *ready = fdopen(fds[0], "r");
    REQUIRE(ready);
    bool is_ready = fgets(line, sizeof line, ready);
    fclose(ready);
    if (!is_ready && process->fault)
        return;
    REQUIRE(is_ready);
    const char *list = strstr(line, "\"listen\"");
    const char *bound = list ? strstr(list, "://") : NULL;
    REQUIRE(bound);
    while (bound[-1] != '"')
        bound--;
    snprintf(process->uri, sizeof process->uri, "%.*s", (int)strcspn(bound, "\""), bound);
    const char *http = strstr(line, "\"http\":\"");
    REQUIRE(!process->watched || http);
    if (http)
        snprintf(process->http, sizeof process->http, "%.*s", (int)strcspn(http + 8, "\""),
                 http + 8);
}

void test_process_start_program(test_process *process, const char *uri, const char *program,
                                const char *const *options)
{
    const char *copy[OPTIONS_MAX] = {0};
    for (unsigned i = 0; options[i]; i++) {
        REQUIRE(i < OPTIONS_MAX);
        copy[i] = options[i];
    }
    start(process, uri, program, copy);
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
    test_process_start_peer(process, uri, volume, NULL, NULL, 0);
}

void test_process_start_peer(test_process *process, const char *uri, const char *volume,
                             const char *size, const char *const *peers, unsigned count)
{
    const char *options[OPTIONS_MAX] = {"--volume", volume, "--segment-size", size ? size : "1m"};
    unsigned at = 4;
    if (size) {
        options[at++] = "--layer-size";
        options[at++] = size;
    }
    for (unsigned i = 0; i < count; i++) {
        if (!peers[i])
            continue;
        REQUIRE(at + 2 <= OPTIONS_MAX);
        options[at++] = "--peer";
        options[at++] = peers[i];
    }
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
