/*
 * Shifts the wall clock of the programs that are started with it:
 *
 *   LD_PRELOAD=build/bin/clock_shift.so MANA_AI_CLOCK_FILE=/path program
 *
 * The file holds one int64 in the machine's byte order, the shift in microseconds. It must be there
 * with its eight bytes when the program starts; what is written to it later counts at once, in all
 * processes. The monotonic clock is left alone, as the kernel does when somebody sets the time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *shift_us;

__attribute__((constructor)) static void map_file(void)
{
    const char *path = getenv("MANA_AI_CLOCK_FILE");
    if (path == NULL)
        return;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    void *place = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    if (place != MAP_FAILED)
        shift_us = place;
    close(fd);
}

static int is_wall_clock(clockid_t clock)
{
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_TAI;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (syscall(SYS_clock_gettime, clock, now) != 0)
        return -1;
    if (shift_us != NULL && is_wall_clock(clock)) {
        int64_t nanos = now->tv_nsec + *shift_us % 1000000 * 1000;
        now->tv_sec += *shift_us / 1000000 + nanos / 1000000000;
        nanos %= 1000000000;
        if (nanos < 0) {
            nanos += 1000000000;
            now->tv_sec--;
        }
        now->tv_nsec = nanos;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place)
{
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
        return -1;
    if (place != NULL)
        *place = precise.tv_sec;
    return precise.tv_sec;
}
