// SPDX-License-Identifier: Apache-2.0
// What whole programs do beside mapping memory: threads in malloc while others fork, children of every kind, signal handlers that
// map, stacks in the heap, daemons that close all descriptors. Argument: MiB that are filled and checked all along. `child` is
// what the program runs itself as. A second argument leaves out stacks in the heap, which need the kernel's own faults served.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define MIB ((size_t)1 << 20)
#define CHECK(what)                                                                                                   \
    do {                                                                                                              \
        if (!(what)) {                                                                                                \
            dprintf(2, "line %d: %s, errno %d\n", __LINE__, #what, errno);                                            \
            bad = 1;                                                                                                  \
        }                                                                                                             \
    } while (0)

extern char **environ;
static volatile int bad;
static volatile unsigned char *all;
static size_t size;

static void fill(void) {
    for (size_t i = 0; i < size; i += 4096)
        all[i] = (unsigned char)((i >> 12) * 3 + 1);
}

static int good(void) {
    for (size_t i = 0; i < size; i += 4096)
        if (all[i] != (unsigned char)((i >> 12) * 3 + 1))
            return 0;
    return 1;
}

/* The exit status of a child; 1000 and more for a signal. */
static int end_of(pid_t child) {
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        return -1;
    return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void *churn(void *seed) {
    unsigned state = (unsigned)(uintptr_t)seed;
    for (int i = 0; i < 150; i++) {
        size_t n = (size_t)rand_r(&state) % 600000 + 1;
        unsigned char *p = malloc(n);
        memset(p, (int)state, n);
        if (i % 3 == 0)
            p = realloc(p, n * 2);
        for (size_t j = 0; j < n; j += 1000)
            if (p[j] != (unsigned char)state)
                bad = 1;
        free(p);
    }
    return 0;
}

static void *forker(void *unused) {
    for (int i = 0; i < 4; i++) {
        pid_t child = fork();
        if (child == 0) {
            char *p = malloc(3 * MIB);
            memset(p, 7, 3 * MIB);
            free(malloc(50));
            free(p);
            _exit(good() ? 0 : 1);
        }
        CHECK(end_of(child) == 0);
    }
    return unused;
}

static void threads(void) {
    pthread_t t[6];
    for (size_t i = 0; i < 6; i++)
        pthread_create(&t[i], 0, i < 4 ? churn : forker, (void *)i);
    for (int i = 0; i < 6; i++)
        pthread_join(t[i], 0);
    CHECK(good());
}

static void heap(void) {
    void *aligned = 0;
    CHECK(malloc_trim(0) >= 0);
    CHECK(posix_memalign(&aligned, 2 * MIB, 5 * MIB) == 0 && (uintptr_t)aligned % (2 * MIB) == 0);
    memset(aligned, 1, 5 * MIB);
    free(aligned);
    char *p = malloc(70000);
    p[0] = 5;
    for (size_t n = MIB / 8; n <= 32 * MIB; n *= 2) {
        p = realloc(p, n);
        p[n - 1] = 6;
        CHECK(p[0] == 5);
    }
    free(p);
    void *library = dlopen("libm.so.6", RTLD_NOW);
    CHECK(library && dlclose(library) == 0);
}

static ucontext_t outside, inside;
static int steps;

static void coroutine(void) {
    char frame[8192];
    memset(frame, 1, sizeof frame);
    for (int i = 0; i < 3; i++) {
        steps++;
        swapcontext(&inside, &outside);
    }
}

static int cloned(void *unused) {
    (void)unused;
    return 5;
}

static void heap_stacks(void) {
    size_t n = MIB / 4;
    char *stack = malloc(n);
    getcontext(&inside);
    inside.uc_stack.ss_sp = stack;
    inside.uc_stack.ss_size = n;
    inside.uc_link = &outside;
    makecontext(&inside, coroutine, 0);
    for (int i = 0; i < 3; i++) {
        swapcontext(&outside, &inside);
        CHECK(good());
    }
    CHECK(steps == 3);
    stack = malloc(MIB);
    CHECK(end_of(clone(cloned, stack + MIB, CLONE_VM | SIGCHLD, 0)) == 5);
}

static char *alternative;
static volatile int on_it;

static void usr1(int signal) {
    char here = (char)signal;
    on_it = &here > alternative && &here < alternative + MIB / 4;
}

static void alarmed(int signal) {
    (void)signal;
    char *p = mmap(0, MIB, RW, ANON, -1, 0);
    if (p != MAP_FAILED) {
        memset(p, 1, MIB);
        munmap(p, MIB);
    }
}

static void signals(void) {
    alternative = malloc(MIB / 4);
    stack_t stack = {.ss_sp = alternative, .ss_size = MIB / 4}, was;
    CHECK(sigaltstack(&stack, 0) == 0);
    CHECK(good());
    struct sigaction action = {.sa_handler = usr1, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, 0);
    raise(SIGUSR1);
    CHECK(on_it);
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, &was) == 0 && was.ss_sp == alternative);
    free(alternative);
    struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    signal(SIGALRM, alarmed);
    setitimer(ITIMER_REAL, &often, 0);
    for (size_t i = 0; i < 2000; i++) {
        size_t n = (i % 64 + 1) << 14;
        char *p = mmap(0, n, RW, ANON, -1, 0);
        *p = 1;
        munmap(p, n);
    }
    setitimer(ITIMER_REAL, &never, 0);
    CHECK(good());
}

static void programs(char *self) {
    char *words[] = {self, "child", 0}, line[9];
    pid_t child = vfork();
    if (child == 0) {
        execv(self, words);
        _exit(1);
    }
    CHECK(end_of(child) == 0);
    if ((child = vfork()) == 0)
        _exit(3);
    CHECK(end_of(child) == 3);
    CHECK(posix_spawn(&child, self, 0, 0, words, environ) == 0);
    CHECK(end_of(child) == 0);
    CHECK(posix_spawn(&child, "/nonexistent", 0, 0, words, environ) == ENOENT);
    CHECK(system("exit 4") >> 8 == 4);
    FILE *pipe = popen("echo hi", "r");
    CHECK(fgets(line, sizeof line, pipe) && strcmp(line, "hi\n") == 0 && pclose(pipe) == 0);
    if ((child = fork()) == 0) {
        execv(self, words);
        _exit(1);
    }
    CHECK(end_of(child) == 0);
}

static void forks(void) {
    pid_t child = fork();
    if (child == 0) {
        child = fork();
        if (child == 0)
            _exit(good() ? 0 : 1);
        all[0] = 9;
        _exit(end_of(child));
    }
    CHECK(end_of(child) == 0);
    CHECK(good());
    if ((child = _Fork()) == 0)
        _exit(good() ? 0 : 1);
    CHECK(end_of(child) == 0);
    /* A daemon: nothing is open, and the next file is the first. */
    if ((child = fork()) == 0) {
        closefrom(3);
        CHECK(open("/dev/null", O_RDONLY) == 3 && dup2(3, 4) == 4 && close(4) == 0 && close(4) == -1);
        fill();
        CHECK(good());
        free(memset(malloc(20 * MIB), 1, 20 * MIB));
        CHECK(good());
        if ((child = fork()) == 0)
            _exit(good() ? 0 : 1);
        CHECK(end_of(child) == 0);
        _exit(bad);
    }
    CHECK(end_of(child) == 0);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "child") == 0) {
        char *p = memset(malloc(30 * MIB), 1, 30 * MIB);
        return p[12345678] == 1 ? 0 : 9;
    }
    size = (argc > 1 ? strtoul(argv[1], 0, 10) : 100) * MIB;
    all = mmap(0, size, RW, ANON, -1, 0);
    CHECK(all != MAP_FAILED);
    fill();
    heap();
    threads();
    if (argc < 3)
        heap_stacks();
    signals();
    programs(argv[0]);
    forks();
    CHECK(good());
    puts(bad ? "bad" : "all good");
    return bad;
}
