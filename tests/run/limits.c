// SPDX-License-Identifier: Apache-2.0
// Limits as a program and its children see them, locked memory, and a break that a program moves itself. The same is to be printed
// plainly and under `tmem run`. `show` prints the limit on address space that a program begins with.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define MIB ((size_t)1 << 20)

static void show(const char *who) {
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    printf("%s: %lu MiB\n", who, (unsigned long)(limit.rlim_cur >> 20));
    fflush(stdout);
}

static void address_space(char *self) {
    struct rlimit limit;
    char command[4096];
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = 2048 * MIB;
    setrlimit(RLIMIT_AS, &limit);
    show("own");
    unsigned long n = 0;
    while (mmap(0, 64 * MIB, RW, ANON | MAP_NORESERVE, -1, 0) != MAP_FAILED)
        n++;
    printf("about all of it %d, more by mremap %d, small blocks %d\n", n >= 29 && n <= 31,
           mremap(mmap(0, MIB, RW, ANON, -1, 0), MIB, 512 * MIB, MREMAP_MAYMOVE) != MAP_FAILED, malloc(1000) != 0);
    snprintf(command, sizeof command, "%s show", self);
    fflush(stdout);
    if (system(command) != 0)
        puts("no shell");
    if (fork() == 0) {
        execl(self, self, "show", (char *)0);
        _exit(1);
    }
    wait(0);
    execl("/nonexistent", "x", (char *)0);
    show("still");
}

static void locks(void) {
    char *p = mmap(0, 8 * MIB, RW, ANON, -1, 0);
    int refused = 0;
    for (int i = 0; i < 300; i++) {
        char *q = mmap(0, MIB / 4, RW, ANON, -1, 0);
        refused += mlock(q, MIB / 4) != 0;
        refused += mlock(q, MIB / 4) != 0;
        munmap(q, MIB / 4);
    }
    printf("refused %d, of which 4 MiB are %d\n", refused, mlock(p, 4 * MIB));
    fflush(stdout);
    if (fork() == 0) {
        printf("a child's other 4 MiB: %d\n", mlock(p + 4 * MIB, 4 * MIB));
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    printf("none %d, others %d, too many %d\n", munlockall(), mlock(p + 2 * MIB, 4 * MIB), mlock(p, 8 * MIB));
    munmap(p, 8 * MIB);
}

static void moved_break(void) {
    char *start = sbrk(0);
    int whole = 1, zero = 1;
    for (size_t i = 0; i < 20; i++) {
        char *p = sbrk(MIB);
        whole &= p == start + i * MIB;
        memset(p, 1, MIB);
    }
    int back = brk(start), same = sbrk(0) == start;
    char *p = sbrk(4096);
    for (int i = 0; i < 4096; i++)
        zero &= p[i] == 0;
    printf("in one piece %d, back %d, there %d, zeros %d\n", whole, back, same, zero);
}

int main(int argc, char **argv) {
    static char out[1 << 16];
    setvbuf(stdout, out, _IOFBF, sizeof out);
    if (argc > 1 && strcmp(argv[1], "show") == 0) {
        show("begins with");
        return 0;
    }
    moved_break();
    memset(mmap(0, 8 * MIB, RW, ANON, -1, 0), 1, 8 * MIB);
    locks();
    address_space(argv[0]);
    execl(argv[0], argv[0], "show", (char *)0);
    return 1;
}
