/* Makes the kernel of one program odd: a shim before libc's calls (LD_PRELOAD, ld.so(8)). KERNEL is the name of a file that says how, whenever it
 * is read:
 *   clock SECONDS   the wall clock shows so much more than it should, or less
 *   panic THREAD    the wall clock fails once in the thread of this name, which it never does: Rust's library panics.
 *                   (The other clock is read with locks held, which a panic of ours would not leave behind.)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* What the file says behind this word, or nothing. */
static const char *said(const char *word, char *text, size_t size) {
    const char *name = getenv("KERNEL");
    int error = errno, fd = name ? (int)syscall(SYS_openat, AT_FDCWD, name, O_RDONLY | O_CLOEXEC) : -1;
    long n = fd < 0 ? 0 : syscall(SYS_read, fd, text, size - 1);
    if (fd >= 0) syscall(SYS_close, fd);
    errno = error;
    text[n > 0 ? n : 0] = 0;
    return strncmp(text, word, strlen(word)) ? NULL : text + strlen(word);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int has_failed;
    char text[64], own[16];
    const char *thread = said("panic ", text, sizeof text);
    if (clock == CLOCK_REALTIME && thread && !prctl(PR_GET_NAME, own) && !strcmp(own, thread) && !__sync_fetch_and_add(&has_failed, 1)) {
        errno = EINVAL;
        return -1;
    }
    int result = syscall(SYS_clock_gettime, clock, time);
    const char *seconds = clock == CLOCK_REALTIME ? said("clock ", text, sizeof text) : NULL;
    if (seconds) time->tv_sec += atol(seconds);
    return result;
}
