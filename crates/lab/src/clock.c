/* The time of day of one process, off by the seconds in a file: the lab preloads this into controllers whose clock it sets.
 * Other clocks are the kernel's. Nothing here allocates or looks a symbol up, because an allocator asks for the time before it
 * can serve anybody. */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *shift_s;

__attribute__((constructor)) static void open_file(void)
{
    const char *path = getenv("LAB_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (page != MAP_FAILED)
        shift_s = page;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    int of_day = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    if (result == 0 && of_day && shift_s)
        now->tv_sec += *shift_s;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone;
    struct timespec of_day;
    int result = clock_gettime(CLOCK_REALTIME, &of_day);
    now->tv_sec = of_day.tv_sec;
    now->tv_usec = of_day.tv_nsec / 1000;
    return result;
}

time_t time(time_t *at)
{
    struct timespec of_day;
    clock_gettime(CLOCK_REALTIME, &of_day);
    if (at)
        *at = of_day.tv_sec;
    return of_day.tv_sec;
}
