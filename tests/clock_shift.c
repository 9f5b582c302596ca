// LD_PRELOAD: shifts the wall clock of a process, and waits on it, by the milliseconds in the file $CLOCK_SHIFT; the
// clock that counts a machine's sleep by the milliseconds that follow there. The steady clock stays, as when a time
// service or a person sets the clock of a machine, or the machine slept.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static const volatile long long *shift_ms;
static int (*next_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
  next_gettime = dlsym(RTLD_NEXT, "clock_gettime");
  const char *path = getenv("CLOCK_SHIFT");
  int file = path ? open(path, O_RDONLY) : -1;
  void *map = file >= 0 ? mmap(0, 2 * sizeof *shift_ms, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
  if (map != MAP_FAILED) shift_ms = map;
}

static struct timespec shifted(struct timespec t, int sign) {
  long long ns = t.tv_sec * 1000000000LL + t.tv_nsec + (shift_ms ? sign * *shift_ms * 1000000LL : 0);
  return (struct timespec){ns / 1000000000LL, ns % 1000000000LL};
}

int clock_gettime(clockid_t id, struct timespec *t) {
  if (!next_gettime) begin();
  int result = next_gettime(id, t);
  if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) *t = shifted(*t, 1);
  if (result == 0 && id == CLOCK_BOOTTIME && shift_ms) {
    t->tv_sec += shift_ms[1] / 1000;
    t->tv_nsec += shift_ms[1] % 1000 * 1000000LL;
    t->tv_sec += t->tv_nsec / 1000000000LL;
    t->tv_nsec %= 1000000000LL;
  }
  return result;
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  *tv = (struct timeval){t.tv_sec, t.tv_nsec / 1000};
  return 0;
}

time_t time(time_t *out) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  if (out) *out = t.tv_sec;
  return t.tv_sec;
}

// A moment of the wall clock to wait for, as the kernel's clock has it, which does not jump with the shift. Some C++
// libraries ask the kernel for the time themselves: a moment that is nearer to the kernel's now than to the shifted one
// is the kernel's already.
static struct timespec kernels(const struct timespec *t) {
  struct timespec now;
  if (t->tv_sec < 1000000000 || !shift_ms) return *t;
  if (!next_gettime) begin();
  next_gettime(CLOCK_REALTIME, &now);
  long long own = llabs((long long)t->tv_sec - now.tv_sec);
  long long other = llabs((long long)t->tv_sec - shifted(now, 1).tv_sec);
  return own <= other ? *t : shifted(*t, -1);
}

int pthread_cond_timedwait(pthread_cond_t *restrict c, pthread_mutex_t *restrict m, const struct timespec *restrict t) {
  static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  if (!next) next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  struct timespec until = kernels(t);
  return next(c, m, &until);
}

int sem_timedwait(sem_t *restrict s, const struct timespec *restrict t) {
  static int (*next)(sem_t *, const struct timespec *);
  if (!next) next = dlsym(RTLD_NEXT, "sem_timedwait");
  struct timespec until = kernels(t);
  return next(s, &until);
}
