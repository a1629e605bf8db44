/* Makes the disk of one program fail, as disks do: a shim before libc's calls that change files (LD_PRELOAD, ld.so(8)).
 *
 * FAULTY_FILES is a part of the names of the files that fail, FAULTS the name of a file that says how, whenever it is read:
 *   ok        not at all
 *   enospc    there is no room for what is written
 *   eio       writes and syncs fail
 *   erofs     writes fail as on a file system that has become read-only
 *   half      half of each write arrives, then there is no room
 *   slow      each write and sync takes a millisecond more
 *   stall     writes and syncs wait until it says something else
 *   stall-sync  syncs do, and writes do not
 *   eio-read  reads fail
 *   stall-read  reads wait until it says something else
 *
 * SYNCED, if it is there, is a directory for copies of these files: each as it was when it was synced last, which is what the disk has for
 * sure.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int is_faulty(int fd) {
    const char *part = getenv("FAULTY_FILES");
    char link[64], path[4096];
    if (!part) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return strstr(path, part) != NULL;
}

static void mode(char *text, size_t size) {
    const char *name = getenv("FAULTS");
    text[0] = 0;
    if (!name) return;
    int fd = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    long n = syscall(SYS_read, fd, text, size - 1);
    syscall(SYS_close, fd);
    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
}

/* Waits as long as this is said of the file. */
static void wait_while(int fd, const char *word) {
    char now[32];
    while (is_faulty(fd) && (mode(now, sizeof now), !strcmp(now, word)))
        nanosleep(&(struct timespec){0, 5000000}, NULL);
}

/* What a write of so many bytes comes to: -1 with errno, or how many of them may be written. */
static ssize_t allowed(int fd, size_t bytes) {
    char now[32];
    if (!is_faulty(fd)) return bytes;
    wait_while(fd, "stall");
    mode(now, sizeof now);
    if (!strcmp(now, "slow")) nanosleep(&(struct timespec){0, 1000000}, NULL);
    if (!strcmp(now, "enospc")) { errno = ENOSPC; return -1; }
    if (!strcmp(now, "eio")) { errno = EIO; return -1; }
    if (!strcmp(now, "erofs")) { errno = EROFS; return -1; }
    if (!strcmp(now, "half")) {
        if (bytes < 2) { errno = ENOSPC; return -1; }
        return bytes / 2;
    }
    return bytes;
}

static int fails_to_read(int fd) {
    char now[32];
    if (!is_faulty(fd)) return 0;
    for (;;) {
        mode(now, sizeof now);
        if (strcmp(now, "stall-read")) break;
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
    if (strcmp(now, "eio-read")) return 0;
    errno = EIO;
    return 1;
}

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t bytes) {
    REAL(ssize_t, "write", int, const void *, size_t);
    ssize_t n = allowed(fd, bytes);
    return n < 0 ? n : real(fd, data, n);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    ssize_t n = allowed(fd, bytes);
    return n < 0 ? n : real(fd, data, n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    ssize_t n = allowed(fd, bytes);
    return n < 0 ? n : real(fd, data, n, at);
}

ssize_t read(int fd, void *data, size_t bytes) {
    REAL(ssize_t, "read", int, void *, size_t);
    return fails_to_read(fd) ? -1 : real(fd, data, bytes);
}

ssize_t pread(int fd, void *data, size_t bytes, off_t at) {
    REAL(ssize_t, "pread", int, void *, size_t, off_t);
    return fails_to_read(fd) ? -1 : real(fd, data, bytes, at);
}

ssize_t pread64(int fd, void *data, size_t bytes, off64_t at) {
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    return fails_to_read(fd) ? -1 : real(fd, data, bytes, at);
}

static int may_sync(int fd) {
    wait_while(fd, "stall-sync");
    return allowed(fd, 1) == 1;
}

/* Copies what has been synced, before anybody is told that it has. What is written meanwhile may be in it, as it may be on the disk. */
static void remember(int fd) {
    const char *directory = getenv("SYNCED");
    char link[64], path[4096], copy[4096], part[4096], block[65536];
    if (!directory || !is_faulty(fd)) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return;
    path[n] = 0;
    snprintf(copy, sizeof copy, "%s%s", directory, strrchr(path, '/'));
    snprintf(part, sizeof part, "%s.part", copy);
    int to = syscall(SYS_openat, AT_FDCWD, part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (off_t at = 0; (n = syscall(SYS_pread64, fd, block, sizeof block, at)) > 0; at += n)
        if (syscall(SYS_write, to, block, n) != n) abort();
    syscall(SYS_close, to);
    if (n < 0 || syscall(SYS_rename, part, copy)) abort();
}

/* One at a time: what is copied later has been synced later. */
static int sync_and_remember(int fd, int (*sync)(int)) {
    static int is_taken;
    if (!may_sync(fd)) return -1;
    while (__sync_lock_test_and_set(&is_taken, 1)) nanosleep(&(struct timespec){0, 100000}, NULL);
    int result = sync(fd);
    if (!result) remember(fd);
    __sync_lock_release(&is_taken);
    return result;
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    return sync_and_remember(fd, real);
}

int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return sync_and_remember(fd, real);
}

int ftruncate(int fd, off_t bytes) {
    REAL(int, "ftruncate", int, off_t);
    return allowed(fd, 1) < 1 ? -1 : real(fd, bytes);
}

int ftruncate64(int fd, off64_t bytes) {
    REAL(int, "ftruncate64", int, off64_t);
    return allowed(fd, 1) < 1 ? -1 : real(fd, bytes);
}

int posix_fallocate(int fd, off_t at, off_t bytes) {
    REAL(int, "posix_fallocate", int, off_t, off_t);
    return allowed(fd, 1) < 1 ? errno : real(fd, at, bytes);
}
