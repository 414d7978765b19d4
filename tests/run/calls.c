// SPDX-License-Identifier: Apache-2.0
// Odd calls of mmap and its kin, one line for each with what came of it: run plainly and under `tmem run`, both must print the
// same. The argument is how many MiB are filled before, so that memory is plain or paged meanwhile. 0: no pager yet.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define SIZE (1UL << 20)
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)
#define HUGE_LEN (~0UL - 100)

static sigjmp_buf again;
static void *volatile where;
static int volatile which;

static void caught(int signal, siginfo_t *info, void *context) {
    (void)context;
    which = signal;
    where = info->si_addr;
    siglongjmp(again, 1);
}

static void say(const char *what, long got) {
    if (got == -1)
        printf("%s: %s\n", what, strerrorname_np(errno));
    else
        printf("%s: %ld errno %s\n", what, got, errno ? strerrorname_np(errno) : "0");
    errno = 0;
}

#define TRY(call) (errno = 0, say(#call, (long)(call)))
/* Calls that answer an address: only whether it is one. */
#define TRYP(call) (errno = 0, say(#call, (long)(call) == -1 ? -1 : 0))

/* A touch: its byte, or the signal and whether the address told is the one touched. */
static void touch(const char *what, volatile unsigned char *at, int write) {
    if (sigsetjmp(again, 1)) {
        printf("touch %s: signal %d at it %d\n", what, which, where == (void *)at);
        return;
    }
    if (write)
        *at = 7;
    printf("touch %s: %d\n", what, *at);
}

static unsigned char *fresh(void) {
    unsigned char *p = mmap(0, SIZE, RW, ANON, -1, 0);
    if (p == MAP_FAILED)
        abort();
    for (size_t i = 0; i < SIZE; i += PAGE)
        p[i] = (unsigned char)(i / PAGE + 1);
    return p;
}

static void maps(void) {
    unsigned char *p = fresh();
    int file = open("/proc/self/exe", O_RDONLY);
    TRYP(mmap(0, 0, RW, ANON, -1, 0));
    TRYP(mmap(0, SIZE, RW, ANON, -1, 123));
    TRYP(mmap(0, SIZE, RW, MAP_ANONYMOUS, -1, 0));
    TRYP(mmap(0, HUGE_LEN, RW, ANON, -1, 0));
    TRYP(mmap(0, 1UL << 62, RW, ANON, -1, 0));
    TRYP(mmap(0, 1UL << 62, PROT_NONE, ANON, -1, 0));
    TRYP(mmap((void *)5, SIZE, RW, ANON, -1, 0));
    TRYP(mmap(p + 1, SIZE, RW, ANON | MAP_FIXED, -1, 0));
    TRYP(mmap(p, SIZE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
    TRYP(mmap(p + SIZE / 2, SIZE / 4, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
    TRYP(mmap((void *)~(PAGE - 1), SIZE, RW, ANON | MAP_FIXED, -1, 0));
    TRYP(mmap(p, HUGE_LEN, RW, ANON | MAP_FIXED, -1, 0));
    /* What fails keeps what was there. */
    TRYP(mmap(p, SIZE, RW, MAP_PRIVATE | MAP_FIXED, 999, 0));
    touch("after EBADF", p + PAGE, 0);
    TRYP(mmap(p, SIZE, RW, MAP_SHARED | MAP_FIXED, file, 0));
    touch("after EACCES", p + PAGE, 0);
    TRYP(mmap(p, SIZE, RW, MAP_PRIVATE | MAP_FIXED, file, 5));
    touch("after an odd offset", p + PAGE, 0);
    TRYP(mmap(p, SIZE, RW, MAP_FIXED | MAP_ANONYMOUS, -1, 0));
    touch("after neither private nor shared", p + PAGE, 0);
    TRYP(mmap(p, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0));
    touch("file", p + 1, 0);
    touch("file, written", p + 1, 1);
    touch("behind the file", p + 2 * PAGE, 0);
    TRYP(mmap(p, 2 * PAGE, RW, ANON | MAP_FIXED, -1, 0));
    touch("plain again", p + PAGE, 1);
    TRY(munmap(p + SIZE / 4, SIZE / 4));
    TRYP(mmap(p + SIZE / 4, SIZE / 4, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
    touch("back", p + SIZE / 4, 0);
    TRY(munmap(p, SIZE));
    close(file);
}

static void unmaps(void) {
    unsigned char *p = fresh();
    TRY(munmap(p, 0));
    TRY(munmap(p + 1, SIZE));
    TRY(munmap(p, HUGE_LEN));
    TRY(munmap(0, SIZE));
    TRY(munmap((void *)1, SIZE));
    TRY(munmap(p + SIZE / 2, 1));
    touch("hole", p + SIZE / 2, 0);
    touch("hole, written", p + SIZE / 2 + 9, 1);
    touch("left of it", p + SIZE / 2 - 1, 0);
    touch("left page", p + SIZE / 2 - PAGE, 0);
    touch("right page", p + SIZE / 2 + PAGE, 0);
    TRY(munmap(p, SIZE));
    TRY(munmap(p, SIZE));
    touch("gone", p, 0);
    touch("gone, written", p + 3 * PAGE + 3, 1);
    touch("nothing", 0, 0);
}

static void protects(void) {
    unsigned char *p = fresh();
    TRY(mprotect(p, 0, PROT_READ));
    TRY(mprotect(p + 1, PAGE, PROT_READ));
    TRY(mprotect(p, HUGE_LEN, PROT_READ));
    TRY(mprotect(p, PAGE, 0x40000000));
    TRY(mprotect(p, PAGE, PROT_READ | PROT_GROWSUP | PROT_GROWSDOWN));
    touch("still there", p, 1);
    TRY(mprotect(p, 2 * PAGE, PROT_NONE));
    touch("none", p + PAGE, 0);
    TRY(mprotect(p, 2 * PAGE, PROT_READ));
    touch("read only", p + PAGE, 0);
    touch("read only, written", p + PAGE, 1);
    TRY(mprotect(p, 2 * PAGE, RW));
    touch("both", p + PAGE, 1);
    TRY(munmap(p + 8 * PAGE, PAGE));
    TRY(mprotect(p + 4 * PAGE, 8 * PAGE, PROT_READ));
    touch("before the hole, written", p + 4 * PAGE, 1);
    touch("behind the hole, written", p + 9 * PAGE, 1);
    TRY(mprotect(p + 8 * PAGE, PAGE, RW));
    TRY(munmap(p, SIZE));
    unsigned char *r = mmap(0, SIZE, PROT_NONE, ANON | MAP_NORESERVE, -1, 0);
    touch("reserved", r + PAGE, 0);
    TRY(mprotect(r + PAGE, PAGE, PROT_READ));
    touch("reserved, to be read", r + PAGE, 0);
    touch("reserved, written", r + PAGE, 1);
    TRY(mprotect(r, SIZE, RW));
    touch("reserved, both", r + PAGE, 1);
    TRYP(mmap(r, SIZE, PROT_NONE, ANON | MAP_FIXED | MAP_NORESERVE, -1, 0));
    touch("none again", r + PAGE, 1);
    TRY(mprotect(r, SIZE, RW));
    touch("zero again", r + PAGE, 0);
    TRY(munmap(r, SIZE));
}

static void remaps(void) {
    unsigned char *p = fresh(), *q = fresh(), *r;
    TRYP(mremap(p + 1, SIZE, 2 * SIZE, MREMAP_MAYMOVE));
    TRYP(mremap(p, SIZE, 0, MREMAP_MAYMOVE));
    TRYP(mremap(p, 0, SIZE, MREMAP_MAYMOVE));
    TRYP(mremap(p, SIZE, SIZE, 0x80));
    TRYP(mremap(p, SIZE, HUGE_LEN, MREMAP_MAYMOVE));
    TRYP(mremap(p, SIZE, 1UL << 62, MREMAP_MAYMOVE));
    TRYP(mremap(p, SIZE, SIZE, MREMAP_FIXED, q));
    TRYP(mremap(p, SIZE, SIZE, MREMAP_FIXED | MREMAP_MAYMOVE, q + 1));
    TRYP(mremap(p, SIZE, SIZE, MREMAP_FIXED | MREMAP_MAYMOVE, p + PAGE));
    TRYP(mremap(p, SIZE, SIZE, MREMAP_DONTUNMAP));
    TRYP(mremap(p, SIZE, 2 * SIZE, MREMAP_DONTUNMAP | MREMAP_MAYMOVE));
    TRYP(mremap(p, SIZE, SIZE / 2, MREMAP_DONTUNMAP | MREMAP_MAYMOVE | MREMAP_FIXED, q));
    touch("p", p + PAGE, 0);
    touch("q", q + 2 * PAGE, 0);
    TRYP(mremap(p, SIZE, SIZE, 0));
    TRYP(mremap(p, SIZE, SIZE / 2, 0));
    touch("cut", p + SIZE / 2, 0);
    touch("kept", p + SIZE / 2 - PAGE, 0);
    TRYP(mremap(p, SIZE / 2, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, q));
    touch("moved", q + PAGE, 0);
    touch("moved, new", q + SIZE / 2, 0);
    touch("moved from", p, 0);
    r = mremap(q, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
    say("dontunmap", r == MAP_FAILED ? -1 : 0);
    touch("left empty", q + PAGE, 0);
    touch("has all", r + PAGE, 0);
    TRY(munmap(r + 4 * PAGE, PAGE));
    TRYP(mremap(r, SIZE, 2 * SIZE, MREMAP_MAYMOVE));
    TRYP(mremap(r + 4 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    touch("still", r + PAGE, 0);
    TRY(munmap(r, SIZE));
    TRY(munmap(q, SIZE));
    p = fresh();
    TRY(mprotect(p + 4 * PAGE, PAGE, PROT_READ));
    TRY(munmap(p, SIZE));
    p = fresh();
    p = mremap(p, SIZE, 16 * SIZE, MREMAP_MAYMOVE);
    touch("grown", p + PAGE, 0);
    touch("grown, end", p + 16 * SIZE - 1, 1);
    TRY(munmap(p, 16 * SIZE));
}

static void advises(void) {
    unsigned char *p = fresh();
    TRY(madvise(p + 1, PAGE, MADV_NORMAL));
    TRY(madvise(p, HUGE_LEN, MADV_NORMAL));
    TRY(madvise(p, 0, MADV_DONTNEED));
    TRY(madvise(p, SIZE, 12345));
    TRY(madvise(p, 0, 12345));
    TRY(madvise(p, SIZE, MADV_REMOVE));
    TRY(madvise(p, SIZE, MADV_RANDOM));
    TRY(madvise(p, SIZE, MADV_SEQUENTIAL));
    TRY(madvise(p, SIZE, MADV_WILLNEED));
    TRY(madvise(p, SIZE, MADV_COLD));
    TRY(madvise(p, SIZE, MADV_PAGEOUT));
    touch("advised", p + PAGE, 0);
    TRY(madvise(p + PAGE, PAGE, MADV_DONTNEED));
    touch("not needed", p + PAGE, 0);
    touch("needed", p + 2 * PAGE, 0);
    TRY(posix_madvise(p, SIZE, POSIX_MADV_DONTNEED));
    TRY(posix_madvise(p + 1, SIZE, POSIX_MADV_NORMAL));
    touch("posix", p + 2 * PAGE, 0);
    TRY(munmap(p + 8 * PAGE, PAGE));
    TRY(madvise(p, SIZE, MADV_DONTNEED));
    touch("behind the hole", p + 9 * PAGE, 0);
    TRY(munmap(p, SIZE));
    TRY(madvise(p, SIZE, MADV_DONTNEED));
}

static void locks(void) {
    unsigned char *p = fresh(), v[SIZE / PAGE];
    TRY(mlock2(p, PAGE, 64));
    TRY(mlock(p + 5, 0));
    TRY(munlock(p + 5, 0));
    TRY(mlock(p + 5, PAGE));
    TRY(madvise(p, PAGE, MADV_DONTNEED));
    TRY(mincore(p, 2 * PAGE, v));
    printf("%d %d\n", v[0] & 1, v[1] & 1);
    TRY(munlock(p, SIZE));
    TRY(mincore(p + 1, PAGE, v));
    TRY(mincore(p, 0, v));
    TRY(mincore(p, HUGE_LEN, v));
    TRY(munmap(p + PAGE, PAGE));
    TRY(mincore(p, 3 * PAGE, v));
    TRY(mlock(p, 3 * PAGE));
    TRY(munlock(p, 3 * PAGE));
    TRY(munmap(p, SIZE));
    TRY(mlockall(0));
    TRY(mlockall(64));
    TRY(mlockall(MCL_ONFAULT));
}

static void forks(void) {
    unsigned char *p = fresh();
    int status;
    TRY(madvise(p, PAGE, MADV_DONTFORK));
    TRY(madvise(p + PAGE, PAGE, MADV_WIPEONFORK));
    TRY(madvise(p + 2 * PAGE, PAGE, MADV_DONTFORK));
    TRY(madvise(p + 2 * PAGE, PAGE, MADV_DOFORK));
    TRY(madvise(p + 3 * PAGE, PAGE, MADV_FREE));
    p[3 * PAGE] = 99;
    fflush(stdout);
    if (fork() == 0) {
        touch("absent", p, 0);
        touch("wiped", p + PAGE, 0);
        touch("kept", p + 2 * PAGE, 0);
        touch("freed, written", p + 3 * PAGE, 0);
        touch("other", p + 4 * PAGE, 1);
        free(malloc(4 << 20));
        fflush(stdout);
        _exit(3);
    }
    wait(&status);
    printf("child %d\n", WEXITSTATUS(status));
    for (int i = 0; i < 5; i++)
        touch("parent", p + (unsigned)i * PAGE, 0);
    TRY(munmap(p, SIZE));
}

int main(int argc, char **argv) {
    size_t fill = argc > 1 ? strtoul(argv[1], 0, 10) << 20 : 0;
    unsigned char *all = fill ? mmap(0, fill, RW, ANON, -1, 0) : 0;
    struct sigaction action = {.sa_sigaction = caught, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    for (size_t i = 0; i < fill; i += 8)
        *(uint64_t *)(all + i) = i * 0x9e3779b97f4a7c15u;
    maps();
    unmaps();
    protects();
    remaps();
    advises();
    locks();
    forks();
    for (size_t i = 0; i < fill; i += 8)
        if (*(uint64_t *)(all + i) != i * 0x9e3779b97f4a7c15u)
            return 1;
    return 0;
}
