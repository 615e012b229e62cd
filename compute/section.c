/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Optimistic sections. In mapping "vm" an optimistic reader may touch a page in the moment when it is
 * evicted. userfaultfd (UFFD_FEATURE_SIGBUS) turns that touch into SIGBUS, and the handler jumps back
 * to the section's start if, and only if, the address is in a window of ours and this thread is in a
 * section. Every other fault goes to the handler that was there before.
 *
 * The jump leaves a signal handler; sigsetjmp(env, 0) has kept no signal mask, for that would cost 140 ns in
 * every section. So the handler restores the mask itself, from where the fault happened.
 */
#include "compute/section.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <ucontext.h>

#include "common/error.h"
#include "compute/thread.h"

enum { WINDOWS_MAX = 256 };

/* start: atomic, 0 = free; written under windows_lock, release, after end; read by the handler. */
static struct {
    _Atomic uintptr_t start, end;
} windows[WINDOWS_MAX];
static pthread_mutex_t windows_lock = PTHREAD_MUTEX_INITIALIZER; /* guards changes */
/* Whose handlers ours replaced. Written under windows_lock before ours is installed. */
static struct sigaction previous_bus, previous_segv;

/* The calling thread's section, NULL outside. Only its thread and its handler touch it. */
static __thread farpool_section *volatile current __attribute__((tls_model("initial-exec")));

void farpool_section_arm(farpool_section *section) { current = section; }

void farpool_section_leave(farpool_section *section)
{
    (void)section;
    current = NULL;
}

static bool in_window(uintptr_t address)
{
    for (int i = 0; i < WINDOWS_MAX; i++) {
        uintptr_t start = atomic_load_explicit(&windows[i].start, memory_order_acquire);
        if (start && address >= start &&
            address < atomic_load_explicit(&windows[i].end, memory_order_relaxed))
            return true;
    }
    return false;
}

/* The fault that the calling thread is passing on, and where our handler's frame lies. Both may be left from a
 * handler that did not return but jumped, as ours does. */
static __thread struct {
    void *context, *frame;
} passing_on __attribute__((tls_model("initial-exec")));

/* frame: of the handler that calls. If it is called for the same fault from further down the stack, the previous
 * handler has passed on to us what we had passed on to it: nobody wants it. */
static void pass_on(int signal_number, siginfo_t *info, void *context, void *frame)
{
    const struct sigaction *previous = signal_number == SIGBUS ? &previous_bus : &previous_segv;
    struct sigaction fatal = {.sa_handler = SIG_DFL};
    if (passing_on.context == context && (uintptr_t)frame < (uintptr_t)passing_on.frame) {
        sigaction(signal_number, &fatal, NULL);
        return;
    }
    passing_on.context = context;
    passing_on.frame = frame;
    if (previous->sa_flags & SA_SIGINFO) {
        previous->sa_sigaction(signal_number, info, context);
    } else if (previous->sa_handler == SIG_DFL || previous->sa_handler == SIG_IGN) {
        /* A real fault: let it happen again with the default action, which ends the process. */
        sigaction(signal_number, &fatal, NULL);
    } else {
        previous->sa_handler(signal_number);
    }
    passing_on.context = NULL;
}

static void on_fault(int signal_number, siginfo_t *info, void *context)
{
    farpool_section *section = current;
    if (section && in_window((uintptr_t)info->si_addr)) {
        current = NULL;
        if (fp_thread_last.thread)
            fp_count(&fp_thread_last.thread->count.restarts, 1);
        /* Whoever called us may have blocked more than we asked for: another handler that passes on to
         * ours, or a sanitizer's. The jump would leave it blocked, and the next fault would be fatal. */
        pthread_sigmask(SIG_SETMASK, &((ucontext_t *)context)->uc_sigmask, NULL);
        siglongjmp(section->env, 1);
    }
    pass_on(signal_number, info, context, __builtin_frame_address(0));
}

/* Also when a handler that somebody installed after ours has taken its place: ours comes first again, and
 * passes on to that one. */
static int install_locked(int signal_number, struct sigaction *previous)
{
    struct sigaction action = {.sa_sigaction = on_fault,
                               .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    struct sigaction now;
    sigemptyset(&action.sa_mask);
    if (sigaction(signal_number, NULL, &now))
        return fp_error_sys("looking at the handler for signal %d", signal_number);
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_fault)
        return 0;
    *previous = now;
    if (sigaction(signal_number, &action, NULL))
        return fp_error_sys("installing the handler for signal %d", signal_number);
    return 0;
}

int fp_section_window_add(void *start, size_t len)
{
    pthread_mutex_lock(&windows_lock);
    int rc = install_locked(SIGBUS, &previous_bus);
    if (!rc)
        rc = install_locked(SIGSEGV, &previous_segv);
    int i = 0;
    while (!rc && i < WINDOWS_MAX && atomic_load_explicit(&windows[i].start, memory_order_relaxed))
        i++;
    if (!rc && i == WINDOWS_MAX)
        rc = fp_error(FARPOOL_E_BUSY, "more than %d partitions with mapping vm in this process",
                      WINDOWS_MAX);
    if (!rc) {
        atomic_store_explicit(&windows[i].end, (uintptr_t)start + len, memory_order_relaxed);
        atomic_store_explicit(&windows[i].start, (uintptr_t)start, memory_order_release);
    }
    pthread_mutex_unlock(&windows_lock);
    return rc;
}

void fp_section_window_remove(void *start)
{
    pthread_mutex_lock(&windows_lock);
    for (int i = 0; i < WINDOWS_MAX; i++)
        if (atomic_load_explicit(&windows[i].start, memory_order_relaxed) == (uintptr_t)start)
            atomic_store_explicit(&windows[i].start, 0, memory_order_release);
    pthread_mutex_unlock(&windows_lock);
}
