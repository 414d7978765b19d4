// SPDX-License-Identifier: Apache-2.0
// A program that does to its memory all that programs do, at random, and knows what must be in every page: private anonymous
// mappings that are mapped, unmapped in part, grown, moved, protected, advised, mapped over, and inherited by children. What
// should be there is noted in memory that is shared, and so nobody's to page. Arguments: seed, steps, threads.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, REGIONS = 24, MOST = 4096, WORDS = PAGE / 8 };

struct region {
    unsigned char *at;
    size_t pages;
    uint64_t stamp[MOST]; // what each page was filled from; 0 for zeros
};

struct actor {
    struct region *regions;
    uint64_t seed, next;
    long steps, refused;
    int alone;
};

static uint64_t draw(struct actor *a) {
    a->seed ^= a->seed << 13, a->seed ^= a->seed >> 7, a->seed ^= a->seed << 17;
    return a->seed;
}

static void fail(const char *what, const struct region *r, size_t page) {
    fprintf(stderr, "space: %s: page %zu of %zu at %p: errno %d\n", what, page, r->pages, (void *)r->at, errno);
    abort();
}

// A budget that has no room answers ENOMEM: then nothing may have changed, or all of the region is given up. Counted, so that
// whoever runs this can tell whether it may be.
static int is_refused(struct actor *a) {
    if (errno != ENOMEM) return 0;
    a->refused++;
    return 1;
}

// Some pages compress well, some do not at all.
static uint64_t word(uint64_t stamp, size_t i) {
    if (stamp % 4 == 1) return stamp;
    if (stamp % 4 == 2) return stamp + i;
    uint64_t x = stamp * 0x9e3779b97f4a7c15u + i * 0xd1342543de82ef95u;
    x ^= x >> 29, x *= 0xbf58476d1ce4e5b9u, x ^= x >> 32;
    return stamp % 4 == 3 ? x & 0xffff : x;
}

static void fill(struct actor *a, struct region *r, size_t page) {
    uint64_t stamp = ++a->next, *p = (uint64_t *)(r->at + page * PAGE);
    for (size_t i = 0; i < WORDS; i++) p[i] = word(stamp, i);
    r->stamp[page] = stamp;
}

static void check(const struct region *r, size_t page) {
    uint64_t stamp = r->stamp[page];
    const uint64_t *p = (const uint64_t *)(r->at + page * PAGE);
    for (size_t i = 0; i < WORDS; i++)
        if (p[i] != (stamp ? word(stamp, i) : 0)) fail("another page than was written", r, page);
}

static void check_all(const struct actor *a) {
    for (int i = 0; i < REGIONS; i++)
        for (size_t p = 0; p < a->regions[i].pages; p++) check(&a->regions[i], p);
}

static void unmap(struct region *r) {
    if (r->pages && munmap(r->at, r->pages * PAGE)) fail("munmap", r, 0);
    r->pages = 0;
}

static void map(struct actor *a, struct region *r) {
    r->pages = 16 + draw(a) % (MOST / 2);
    int reserve = draw(a) % 4 == 0;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | (draw(a) % 8 ? 0 : MAP_NORESERVE);
    r->at = mmap(NULL, r->pages * PAGE, reserve ? PROT_NONE : PROT_READ | PROT_WRITE, flags, -1, 0);
    if (r->at == MAP_FAILED) {
        if (!is_refused(a)) fail("mmap", r, 0);
        r->pages = 0;
        return;
    }
    if (reserve && mprotect(r->at, r->pages * PAGE, PROT_READ | PROT_WRITE)) {
        if (!is_refused(a)) fail("mprotect of a reservation", r, 0);
        unmap(r);
        return;
    }
    memset(r->stamp, 0, r->pages * sizeof *r->stamp);
}

static void span(struct actor *a, const struct region *r, size_t *from, size_t *n) {
    *from = draw(a) % r->pages;
    *n = 1 + draw(a) % (r->pages - *from);
}

static void resize(struct actor *a, struct region *r) {
    size_t pages = 1 + draw(a) % MOST;
    int flags = MREMAP_MAYMOVE;
    void *to = NULL;
    if (draw(a) % 3 == 0) { // to an address of its own, where something else was
        to = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (to == MAP_FAILED) {
            if (!is_refused(a)) fail("mmap", r, 0);
            return;
        }
        flags |= MREMAP_FIXED;
    }
    void *at = mremap(r->at, r->pages * PAGE, pages * PAGE, flags, to);
    // The kernel moves no mapping that has come to be of several parts.
    if (at == MAP_FAILED && (errno == EFAULT || is_refused(a))) {
        if (to) munmap(to, pages * PAGE);
        for (size_t p = 0; p < r->pages; p++) check(r, p);
        return;
    }
    if (at == MAP_FAILED) fail("mremap", r, 0);
    if (to && at != to) fail("mremap to another address than told", r, 0);
    r->at = at;
    for (size_t p = r->pages; p < pages; p++) r->stamp[p] = 0;
    r->pages = pages;
}

static void drop(struct actor *a, struct region *r) {
    size_t from, n;
    span(a, r, &from, &n);
    int advice = draw(a) % 2 ? MADV_DONTNEED : MADV_FREE;
    if (madvise(r->at + from * PAGE, n * PAGE, advice)) fail("madvise", r, from);
    for (size_t p = from; p < from + n; p++) {
        uint64_t *first = (uint64_t *)(r->at + p * PAGE);
        if (advice == MADV_FREE && *first == word(r->stamp[p], 0)) fill(a, r, p); // either is right until it is written
        else r->stamp[p] = 0;
    }
}

static void protect(struct actor *a, struct region *r) {
    size_t from, n;
    span(a, r, &from, &n);
    int prot = (const int[]){PROT_READ, PROT_NONE, PROT_READ | PROT_EXEC}[draw(a) % 3];
    int refused = mprotect(r->at + from * PAGE, n * PAGE, prot);
    if (refused && !is_refused(a)) fail("mprotect", r, from);
    if (!refused && prot & PROT_READ)
        for (size_t p = from; p < from + n; p++) check(r, p);
    if (mprotect(r->at + from * PAGE, n * PAGE, PROT_READ | PROT_WRITE)) {
        if (!is_refused(a)) fail("mprotect back", r, from);
        unmap(r);
    }
}

static void over(struct actor *a, struct region *r) {
    size_t from, n;
    span(a, r, &from, &n);
    unsigned char *at = r->at + from * PAGE;
    int how = draw(a) % 3;
    if (how == 0 && munmap(at, n * PAGE)) fail("munmap of a part", r, from);
    int prot = how != 2 ? PROT_READ | PROT_WRITE : PROT_NONE;
    if (mmap(at, n * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at ||
        (how == 2 && mprotect(at, n * PAGE, PROT_READ | PROT_WRITE))) {
        if (!is_refused(a)) fail("mmap over", r, from);
        unmap(r);
        return;
    }
    for (size_t p = from; p < from + n; p++) r->stamp[p] = 0;
}

static void file_over(struct actor *a, struct region *r) {
    size_t from, n;
    span(a, r, &from, &n);
    if (n > 64) n = 64;
    unsigned char *at = r->at + from * PAGE;
    FILE *f = tmpfile();
    if (!f) return;
    for (size_t p = 0; p < n; p++) {
        uint64_t stamp = ++a->next, words[WORDS];
        for (size_t i = 0; i < WORDS; i++) words[i] = word(stamp, i);
        if (fwrite(words, PAGE, 1, f) != 1) fail("fwrite", r, from);
        r->stamp[from + p] = stamp;
    }
    fflush(f);
    if (mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fileno(f), 0) != at) {
        if (!is_refused(a)) fail("mmap of a file", r, from);
        unmap(r);
        fclose(f);
        return;
    }
    for (size_t p = from; p < from + n; p++) check(r, p);
    fclose(f);
    // Back to memory, with its contents: read aside, mapped over, written.
    static _Thread_local unsigned char copy[64 * PAGE]; // not of the heap, which the budget may refuse
    memcpy(copy, at, n * PAGE);
    if (mmap(at, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != at) {
        if (!is_refused(a)) fail("mmap over a file", r, from);
        unmap(r);
    } else {
        memcpy(at, copy, n * PAGE);
    }
}

static void children(struct actor *a) {
    pid_t pid = fork();
    if (pid < 0) abort();
    if (pid == 0) {
        check_all(a);
        for (int i = 0; i < REGIONS; i++)
            for (size_t p = 0; p < a->regions[i].pages; p += 7)
                memset(a->regions[i].at + p * PAGE, 0xee, PAGE);
        _exit(0);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || status) {
        fprintf(stderr, "space: a child ended with status %x\n", status);
        abort();
    }
}

static void *act(void *arg) {
    struct actor *a = arg;
    for (long step = 0; step < a->steps; step++) {
        struct region *r = &a->regions[draw(a) % REGIONS];
        if (!r->pages) {
            map(a, r);
            continue;
        }
        size_t from, n;
        switch (draw(a) % 16) {
        case 0: unmap(r); break;
        case 1: resize(a, r); break;
        case 2: drop(a, r); break;
        case 3: protect(a, r); break;
        case 4: if (a->alone) over(a, r); break; // what is unmapped for a moment is another thread's to take
        case 5: if (draw(a) % 4 == 0) file_over(a, r); break;
        case 6: if (draw(a) % 24 == 0) children(a); break;
        case 7: case 8: case 9:
            span(a, r, &from, &n);
            for (size_t p = from; p < from + n; p++) check(r, p);
            break;
        default:
            span(a, r, &from, &n);
            for (size_t p = from; p < from + n; p++)
                fill(a, r, p);
        }
    }
    check_all(a);
    for (int i = 0; i < REGIONS; i++) unmap(&a->regions[i]);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int n = atoi(argv[3]);
    struct actor actors[16] = {0};
    pthread_t threads[16];
    if (n < 1 || n > 16) return 2;
    for (int i = 0; i < n; i++) {
        actors[i].seed = strtoull(argv[1], NULL, 10) * 16 + i + 1;
        actors[i].steps = atol(argv[2]);
        actors[i].alone = n == 1;
        actors[i].regions = mmap(NULL, REGIONS * sizeof(struct region), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (actors[i].regions == MAP_FAILED) return 3;
        if (i && pthread_create(&threads[i], NULL, act, &actors[i])) return 3;
    }
    act(&actors[0]);
    for (int i = 1; i < n; i++) pthread_join(threads[i], NULL);
    long refused = 0;
    for (int i = 0; i < n; i++) refused += actors[i].refused;
    printf("done, %ld refused\n", refused);
    return 0;
}
