/*
 * Preloaded into a server that valgrind slows down: its clocks go slower by SLOW_CLOCK, and its waits last longer by the
 * same factor. So what depends on elapsed time, such as how many steps share a transaction, is as it is without valgrind.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NANOS 1000000000LL
#define KNOWN_CLOCKS 12

static long long factor = 1;
static long long begin[KNOWN_CLOCKS];

static long long read_clock(clockid_t clock) {
    struct timespec now = {0, 0};
    syscall(SYS_clock_gettime, clock, &now);
    return now.tv_sec * NANOS + now.tv_nsec;
}

__attribute__((constructor)) static void note_begin(void) {
    const char* setting = getenv("SLOW_CLOCK");
    for (int clock = 0; clock < KNOWN_CLOCKS; clock++)
        begin[clock] = read_clock(clock);
    if (setting != NULL && atoll(setting) > 0)
        factor = atoll(setting);
}

static long long slowed(clockid_t clock) {
    if (clock < 0 || clock >= KNOWN_CLOCKS)
        return read_clock(clock);
    return begin[clock] + (read_clock(clock) - begin[clock]) / factor;
}

int clock_gettime(clockid_t clock, struct timespec* result) {
    const long long now = slowed(clock);
    result->tv_sec = now / NANOS;
    result->tv_nsec = now % NANOS;
    return 0;
}

int gettimeofday(struct timeval* restrict result, void* restrict zone) {
    const long long now = slowed(CLOCK_REALTIME);
    (void)zone;
    result->tv_sec = now / NANOS;
    result->tv_usec = now % NANOS / 1000;
    return 0;
}

time_t time(time_t* result) {
    const time_t now = slowed(CLOCK_REALTIME) / NANOS;
    if (result != NULL)
        *result = now;
    return now;
}

int epoll_wait(int epoll, struct epoll_event* events, int most, int milliseconds) {
    static int (*real)(int, struct epoll_event*, int, int);
    if (real == NULL)
        real = (int (*)(int, struct epoll_event*, int, int))dlsym(RTLD_NEXT, "epoll_wait");
    if (milliseconds > 0 && milliseconds < 1000000)
        milliseconds *= (int)factor;
    return real(epoll, events, most, milliseconds);
}
