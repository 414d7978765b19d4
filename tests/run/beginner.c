// SPDX-License-Identifier: Apache-2.0
// A library whose constructor makes threads that are in the C library all the time: `tmem run` changes its text before that.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

volatile int stop;

static void *work(void *unused) {
    char buffer[4096];
    while (!stop) {
        memset(buffer, 1, sizeof buffer);
        munmap(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096);
        free(malloc(100));
        getppid();
    }
    return unused;
}

__attribute__((constructor)) static void begin(void) {
    pthread_t thread;
    for (int i = 0; i < 3; i++)
        pthread_create(&thread, 0, work, 0);
    usleep(1000);
}
