// SPDX-License-Identifier: Apache-2.0
// A thread blocks every signal from its start, as helpers of daemons and of allocators do; then memory comes to be paged, and
// the thread reads of it and hands it to the kernel. Arguments: MiB, and how the thread blocks signals: "library" or "raw".
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MIB = 1 << 20, STEP = 64, SEED = 7 };

static unsigned char **blocks;
static size_t count, wrong;
static int raw, wake[2], up[2];

static unsigned char value(size_t block, size_t at) { return (unsigned char)((block * SEED + at) / STEP); }

static void check(void) {
    unsigned char got[4096];
    int p[2];
    if (pipe(p)) abort();
    for (size_t i = 0; i < count; i++) {
        wrong += write(p[1], blocks[i], sizeof got) != (ssize_t)sizeof got;
        wrong += read(p[0], got, sizeof got) != (ssize_t)sizeof got;
        wrong += memcmp(got, blocks[i], sizeof got) != 0;
        for (size_t j = 0; j < MIB; j += STEP) wrong += blocks[i][j] != value(i, j);
    }
}

static void *helper(void *unused) {
    char c = 0;
    sigset_t all;
    sigfillset(&all);
    if (raw) syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, 8);
    else pthread_sigmask(SIG_SETMASK, &all, NULL);
    if (write(up[1], &c, 1) != 1 || read(wake[0], &c, 1) != 1) abort();
    check();
    return unused;
}

int main(int argc, char **argv) {
    if (argc != 3 || pipe(wake) || pipe(up)) return 2;
    char c = 0;
    pthread_t thread;
    raw = !strcmp(argv[2], "raw");
    if (pthread_create(&thread, NULL, helper, NULL) || read(up[0], &c, 1) != 1) return 2;
    count = strtoul(argv[1], NULL, 10);
    blocks = calloc(count, sizeof *blocks);
    for (size_t i = 0; i < count; i++) {
        if (!(blocks[i] = malloc(MIB))) {
            puts("refused");
            return 3;
        }
        for (size_t j = 0; j < MIB; j += STEP) blocks[i][j] = value(i, j);
    }
    if (write(wake[1], &c, 1) != 1 || pthread_join(thread, NULL)) return 2;
    printf("wrong %zu\n", wrong);
    return wrong != 0;
}
