/* Lets chosen calls on files of one folder fail, or the process die in them. Loaded by LD_PRELOAD; see processes.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { FAIL = 1, DIE_BEFORE, DIE_AFTER, DIE_HALFWAY, SIGNAL };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX], calls[64], paths[PATH_MAX];
static long left;
static int how, number, lasting, list = -1, broken;

/* Arms it: the `at`-th call whose name and path in the folder fit the patterns fails with `error`, once or, with
   `always`, as do all that write after it; or the process dies in it, or gets the signal `error`, with `always` in the
   next one, too. Every call is listed in the file `listed`. */
void arm_faults(const char *in, const char *call, const char *path, long at, int what, int error, int always, int listed) {
    pthread_mutex_lock(&lock);
    snprintf(folder, sizeof folder, "%s", in);
    snprintf(calls, sizeof calls, "%s", call);
    snprintf(paths, sizeof paths, "%s", path);
    left = at, how = what, number = error, lasting = always, list = listed, broken = 0;
    pthread_mutex_unlock(&lock);
}

/* The path below the folder, or NULL. */
static const char *below(int directory, const char *path, char *full) {
    char link[64];
    size_t size = strlen(folder);
    if (size == 0) return NULL;
    full[0] = 0;
    if (path == NULL || path[0] != '/') {
        if (directory == AT_FDCWD) return NULL;
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t found = readlink(link, full, PATH_MAX - 1);
        if (found < 0) return NULL;
        full[found] = 0;
        if (path != NULL) strncat(strncat(full, "/", PATH_MAX - 1 - found), path, PATH_MAX - 2 - found);
    } else {
        snprintf(full, PATH_MAX, "%s", path);
    }
    if (strncmp(full, folder, size) != 0 || full[size] != '/') return NULL;
    return full + size + 1;
}

/* What is to happen in a call: 0, or one of the enum. */
static int fate(const char *call, int writes, int directory, const char *path) {
    char full[PATH_MAX], line[PATH_MAX + 64];
    int before = errno, found = 0;
    const char *name = below(directory, path, full);
    if (name == NULL) {
        errno = before;
        return 0;
    }
    pthread_mutex_lock(&lock);
    if (list >= 0) {
        int size = snprintf(line, sizeof line, "%s %s\n", call, name);
        syscall(SYS_write, list, line, size);
    }
    if (broken && writes) found = FAIL;
    if (how && left > 0 && fnmatch(calls, call, 0) == 0 && fnmatch(paths, name, 0) == 0 && --left == 0) {
        found = how;
        broken = how == FAIL && lasting;
        if (how == SIGNAL && lasting) left = 1, lasting = 0;
    }
    pthread_mutex_unlock(&lock);
    if (found == SIGNAL) {
        kill(getpid(), number);
        found = 0;
    }
    errno = before;
    return found;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define GUARD(call, writes, directory, path, type, actual) \
    int fate_ = fate(call, writes, directory, path); \
    if (fate_ == FAIL) { errno = number; return -1; } \
    if (fate_ == DIE_BEFORE) die(); \
    type result = actual; \
    if (fate_ >= DIE_AFTER) die(); \
    return result

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        int writes = (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0; \
        GUARD(writes ? "create" : "open", writes, AT_FDCWD, path, int, NEXT(name)(path, flags, mode)); \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name) \
    int name(int directory, const char *path, int flags, ...) { \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        int writes = (flags & (O_WRONLY | O_RDWR | O_CREAT)) != 0; \
        GUARD(writes ? "create" : "open", writes, directory, path, int, NEXT(name)(directory, path, flags, mode)); \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

ssize_t write(int file, const void *bytes, size_t size) {
    int what = fate("write", 1, file, NULL);
    if (what == FAIL) { errno = number; return -1; }
    if (what == DIE_BEFORE) die();
    ssize_t written = NEXT(write)(file, bytes, what == DIE_HALFWAY ? size / 2 : size);
    if (what >= DIE_AFTER) die();
    return written;
}

#define WRITES(name, ...) \
    GUARD("write", 1, file, NULL, ssize_t, NEXT(name)(file, __VA_ARGS__))
struct iovec;
ssize_t pwrite(int file, const void *bytes, size_t size, off_t from) { WRITES(pwrite, bytes, size, from); }
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t from) { WRITES(pwrite64, bytes, size, from); }
extern ssize_t writev(int, const struct iovec *, int);
ssize_t writev(int file, const struct iovec *bytes, int count) { WRITES(writev, bytes, count); }

int fsync(int file) { GUARD("sync", 1, file, NULL, int, NEXT(fsync)(file)); }
int fdatasync(int file) { GUARD("sync", 1, file, NULL, int, NEXT(fdatasync)(file)); }
int ftruncate(int file, off_t size) { GUARD("cut", 1, file, NULL, int, NEXT(ftruncate)(file, size)); }
int ftruncate64(int file, off64_t size) { GUARD("cut", 1, file, NULL, int, NEXT(ftruncate64)(file, size)); }

int rename(const char *from, const char *to) { GUARD("rename", 1, AT_FDCWD, to, int, NEXT(rename)(from, to)); }
int renameat(int old, const char *from, int new, const char *to) {
    GUARD("rename", 1, new, to, int, NEXT(renameat)(old, from, new, to));
}
int renameat2(int old, const char *from, int new, const char *to, unsigned flags) {
    GUARD("rename", 1, new, to, int, NEXT(renameat2)(old, from, new, to, flags));
}

int mkdir(const char *path, mode_t mode) { GUARD("mkdir", 1, AT_FDCWD, path, int, NEXT(mkdir)(path, mode)); }
int mkdirat(int directory, const char *path, mode_t mode) {
    GUARD("mkdir", 1, directory, path, int, NEXT(mkdirat)(directory, path, mode));
}
int unlink(const char *path) { GUARD("unlink", 1, AT_FDCWD, path, int, NEXT(unlink)(path)); }
int unlinkat(int directory, const char *path, int flags) {
    GUARD("unlink", 1, directory, path, int, NEXT(unlinkat)(directory, path, flags));
}
int rmdir(const char *path) { GUARD("unlink", 1, AT_FDCWD, path, int, NEXT(rmdir)(path)); }
