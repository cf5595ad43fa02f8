/* The preloaded recorder: ioctl, open, mmap and what changes descriptors, written to a file that all processes share.
 *
 * Nothing is decoded here. For each watched ioctl the argument is copied before and after the call, and what its pointers
 * point at, as small programs say that the reader made from its tables. The kernel is asked before memory of the target is
 * read, or reads it for us (process_vm_readv), so that a wild pointer costs an EFAULT and not the target's life. A record is reserved by
 * one atomic addition; nobody waits for anybody. The calls themselves go straight to the kernel: errno is the target's.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <spawn.h>

#include "recorder.h"

#define EXPORT __attribute__((visibility("default")))
#define RECORD_MAGIC 0x31534f49u
#define PENDING 0x80000000u
#define KNOWN_FDS 65536
#define MAX_BLOB (256u << 10)
#define MAX_BLOBS 60
#define MAX_BYTES (4u << 20)

enum { IOCTL = 1, OPEN, MMAP, MUNMAP, CLOSE, DUP, FORK, EXEC, DEVICE, START, DOORBELL, DUMP };
enum { OPTION_STACK = 1, OPTION_DOORBELLS = 2, OPTION_OPENS = 4 };
enum { UNKNOWN, IGNORED, WATCHED };

static sniff_header *shared;
static uint8_t known[KNOWN_FDS];
static uint32_t self;
static __thread int inside;
static char capture_path[1024], library_path[1024];

/* Time and memory -------------------------------------------------------------------------------------------- */

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static __thread uint32_t own_id;

static uint32_t thread(void) {
    if (!own_id) own_id = (uint32_t)syscall(SYS_gettid);
    return own_id;
}

/* Whether 8 aligned bytes can be read: the kernel copies them in, then refuses the call for its first argument. */
static int readable(uint64_t address) {
    return syscall(SYS_rt_sigprocmask, -1l, (void *)(uintptr_t)(address & ~7ull), NULL, 8ul) < 0 && errno != EFAULT;
}

/* Bytes that could be read of [address, address + length); fewer than asked for at the end of a mapping. */
static size_t peek(void *into, uint64_t address, size_t length) {
    uint64_t last = address + length - 1;
    if (length <= 4096 && last >= address && readable(address)
            && ((address ^ last) < 4096 || readable(last))) {       /* in one page, or both its pages are there */
        memcpy(into, (void *)(uintptr_t)address, length);
        return length;
    }
    struct iovec local = {into, length}, remote = {(void *)(uintptr_t)address, length};
    long got = syscall(SYS_process_vm_readv, self, &local, 1ul, &remote, 1ul, 0ul);
    return got < 0 ? 0 : (size_t)got;
}

/* Records ---------------------------------------------------------------------------------------------------- */

typedef struct { uint64_t address; uint32_t length; uint16_t phase; const void *bytes; } piece;

static void put(sniff_record *fill, const piece *pieces, unsigned count) {
    if (!shared) return;
    uint64_t length = sizeof(sniff_record);
    for (unsigned i = 0; i < count; i++) length += sizeof(sniff_blob) + ((pieces[i].length + 7u) & ~7u);
    uint64_t at = __atomic_fetch_add(&shared->head, length, __ATOMIC_RELAXED);
    if (at + length > shared->capacity) {
        __atomic_fetch_add(&shared->lost, 1, __ATOMIC_RELAXED);
        return;
    }
    sniff_record *record = (sniff_record *)((char *)shared + at);
    record->length = (uint32_t)length | PENDING;
    __atomic_store_n(&record->magic, RECORD_MAGIC, __ATOMIC_RELEASE);
    fill->magic = RECORD_MAGIC;
    fill->length = (uint32_t)length | PENDING;
    fill->blobs = (uint16_t)count;
    fill->pid = self;
    fill->tid = thread();
    memcpy(record, fill, sizeof *record);
    char *next = (char *)(record + 1);
    for (unsigned i = 0; i < count; i++) {
        sniff_blob blob = {pieces[i].address, pieces[i].length, pieces[i].phase, 0};
        memcpy(next, &blob, sizeof blob);
        memcpy(next + sizeof blob, pieces[i].bytes, pieces[i].length);
        next += sizeof blob + ((pieces[i].length + 7u) & ~7u);
    }
    __atomic_store_n(&record->length, (uint32_t)length, __ATOMIC_RELEASE);
}

static void put_text(sniff_record *fill, const char *text) {
    piece one = {0, (uint32_t)strlen(text), 2, text};
    put(fill, &one, 1);
}

static uint32_t elapsed(uint64_t start) {
    uint64_t took = now() - start;
    return took > 0xfffffffeu ? 0xffffffffu : (uint32_t)took;
}

/* Descriptors ------------------------------------------------------------------------------------------------ */

static void forget(int fd) {
    if (fd >= 0 && fd < KNOWN_FDS) known[fd] = UNKNOWN;
}

static int matches(const char *path) {
    for (uint32_t i = 0; i < shared->patterns; i++)
        if (fnmatch(shared->pattern[i], path, 0) == 0) return 1;
    return 0;
}

/* Whether a descriptor is a watched device; asks /proc once a descriptor. */
static int watched(int fd) {
    if (!shared || fd < 0) return 0;
    if (fd < KNOWN_FDS && known[fd] != UNKNOWN) return known[fd] == WATCHED;
    char link[40], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    int wanted = matches(path);
    if (fd < KNOWN_FDS) known[fd] = wanted ? WATCHED : IGNORED;
    if (wanted) {
        sniff_record record = {.kind = DEVICE, .fd = fd, .time = now()};
        put_text(&record, path);
    }
    return wanted;
}

/* Pointer programs: see program.py, which writes them ----------------------------------------------------------- */

static const uint32_t *program_of(uint32_t request) {
    const uint32_t *table = (const uint32_t *)((char *)shared + shared->programs);
    uint32_t low = 0, high = shared->program_words ? table[0] : 0;
    while (low < high) {
        uint32_t middle = (low + high) / 2, key = table[1 + 2 * middle];
        if (key == (request & 0xffff)) return table + table[2 + 2 * middle];
        if (key < (request & 0xffff)) low = middle + 1; else high = middle;
    }
    return NULL;
}

typedef struct { piece pieces[MAX_BLOBS]; unsigned count; char *buffer; size_t used, room; } pile;

static char *grab(pile *p, uint64_t address, uint32_t length, uint16_t phase, uint32_t *got) {
    if (p->count == MAX_BLOBS || !length || !address) return NULL;
    if (length > MAX_BLOB) length = MAX_BLOB;
    if (p->used + length > p->room) return NULL;
    for (unsigned i = 0; i < p->count; i++)
        if (p->pieces[i].address == address && p->pieces[i].phase == phase && p->pieces[i].length >= length) return NULL;
    char *into = p->buffer + p->used;
    *got = (uint32_t)peek(into, address, length);
    if (!*got) return NULL;
    p->pieces[p->count++] = (piece){address, *got, phase, into};
    p->used += (*got + 7u) & ~7u;
    return into;
}

static uint64_t number(const char *bytes, uint32_t have, uint32_t at, uint32_t width) {
    uint64_t value = 0;
    if (at + width <= have) memcpy(&value, bytes + at, width);
    return value;
}

/* An operation is 10 words: the pointer's offset; the count's offset (or -1: one), its width; multiplier, divisor and
 * bytes to add; unused; the sub-program's place in the table (0: none) and the element's size; the pointer's width. */
static void follow(pile *p, const uint32_t *table, const uint32_t *operations, const char *bytes, uint32_t have,
                   uint16_t phase, int depth) {
    uint32_t count = *operations++;
    for (; count--; operations += 10) {
        uint64_t address = number(bytes, have, operations[0], operations[9]);
        uint64_t length = operations[1] == 0xffffffffu ? 1 : number(bytes, have, operations[1], operations[2]);
        if (length > MAX_BLOB) length = MAX_BLOB;
        length = length * operations[3] / (operations[4] ? operations[4] : 1) + (uint64_t)(int64_t)(int32_t)operations[5];
        if ((int64_t)length <= 0) continue;
        uint32_t got;
        if (length > MAX_BLOB) length = MAX_BLOB;
        char *found = grab(p, address, (uint32_t)length, phase, &got);
        if (found && operations[7] && depth < 4)
            for (uint32_t at = 0; at + operations[8] <= got && operations[8]; at += operations[8])
                follow(p, table, table + operations[7], found + at, got - at, phase, depth + 1);
    }
}

static void argument(pile *p, uint32_t request, uint64_t arg, uint16_t phase) {
    const uint32_t *table = (const uint32_t *)((char *)shared + shared->programs);
    const uint32_t *program = program_of(request);
    uint32_t size = request >> 16 & 0x3fff, got;
    if (program) {
        if (program[0] & 0x80000000u) {             /* its own first word says how long it is */
            uint32_t said = 0;
            if (peek(&said, arg, 4) == 4 && said > size) size = said > MAX_BLOB ? MAX_BLOB : said;
            if (size < (program[0] & 0xffff)) size = program[0] & 0xffff;
        } else if (program[0] > size) {
            size = program[0];
        }
    }
    if (!size) return;
    char *bytes = grab(p, arg, size, phase, &got);
    if (bytes && program) follow(p, table, program + 1, bytes, got, phase, 0);
}

static size_t stack(char *into, size_t room) {
    void *frames[32];
    int count = backtrace(frames, 32);
    size_t used = 0;
    for (int i = 2; i < count && used + 256 < room; i++) {
        Dl_info info;
        if (dladdr(frames[i], &info) && info.dli_fname)
            used += (size_t)snprintf(into + used, room - used, "%.120s %s%s+%#lx\n", info.dli_fname,
                                     info.dli_sname ? info.dli_sname : "", info.dli_sname ? "" : "base",
                                     (unsigned long)((char *)frames[i] - (char *)(info.dli_sname ? info.dli_saddr
                                                                                  : info.dli_fbase)));
        else
            used += (size_t)snprintf(into + used, room - used, "? %p\n", frames[i]);
    }
    return used;
}

static long raw(long number, long a, long b, long c, long d, long e, long f) {
    return syscall(number, a, b, c, d, e, f);
}

/* A thread's own room for copies: address space that is filled as far as it is used. */
static pthread_key_t room_key;

static char *room(void) {
    static __thread char *mine;
    if (!mine) {
        void *at = (void *)raw(SYS_mmap, 0, MAX_BYTES, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) return NULL;
        mine = at;
        pthread_setspecific(room_key, at);
    }
    return mine;
}

static void room_done(void *at) { raw(SYS_munmap, (long)at, MAX_BYTES, 0, 0, 0, 0); }

#include "doorbells.h"
#include "submits.h"

/* The hooks -------------------------------------------------------------------------------------------------- */

EXPORT int ioctl(int fd, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    uint64_t arg = (uint64_t)(uintptr_t)va_arg(list, void *);
    va_end(list);
    if (inside || !watched(fd) || !(shared->types[request >> 14 & 3] >> (request >> 8 & 63) & 1))
        return (int)raw(SYS_ioctl, fd, (long)request, (long)arg, 0, 0, 0);
    inside = 1;
    int before_errno = errno;
    pile p = {.buffer = room(), .room = MAX_BYTES};
    if (!p.buffer) p.room = 0;
    argument(&p, (uint32_t)request, arg, 0);
    uint64_t start = now();
    errno = before_errno;
    long result = raw(SYS_ioctl, fd, (long)request, (long)arg, 0, 0, 0);
    int error = result < 0 ? errno : 0;
    sniff_record record = {.kind = IOCTL, .fd = fd, .time = start, .duration = elapsed(start), .error = error,
                           .result = result, .a = request, .b = arg};
    argument(&p, (uint32_t)request, arg, 1);
    char frames[8192];
    if (shared->options & OPTION_STACK && p.count < MAX_BLOBS)
        p.pieces[p.count++] = (piece){0, (uint32_t)stack(frames, sizeof frames), 2, frames};
    put(&record, p.pieces, p.count);
    if (shared->options & OPTION_DOORBELLS) note_queue(request, arg, error);
    if ((request >> 8 & 0xff) == 'd' && !error) {       /* DRM: may be one of amdgpu's */
        uint32_t first = 0;
        if (p.count && p.pieces[0].phase == 0 && p.pieces[0].length >= 4) memcpy(&first, p.pieces[0].bytes, 4);
        note_amdgpu(fd, (uint32_t)request, arg, first, start);
    }
    inside = 0;
    errno = error ? error : before_errno;
    return (int)result;
}

static void opened(int fd, const char *path, int flags, uint64_t start, int error) {
    if (inside || !shared) return;
    forget(fd);
    int keep = errno;
    inside = 1;
    if ((fd >= 0 && watched(fd)) || (fd < 0 && matches(path))) {
        sniff_record record = {.kind = OPEN, .fd = fd, .time = start, .duration = elapsed(start),
                               .error = error, .result = fd, .a = (uint64_t)flags};
        put_text(&record, path);
    }
    inside = 0;
    errno = keep;
}

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    uint64_t start = shared ? now() : 0;
    int fd = (int)raw(SYS_openat, folder, (long)path, flags, (long)mode, 0, 0);
    opened(fd, path, flags, start, fd < 0 ? errno : 0);
    return fd;
}

#define MODE(flags, last) mode_t mode = 0; \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list list; va_start(list, last); mode = (mode_t)va_arg(list, unsigned); va_end(list); }

EXPORT int open(const char *path, int flags, ...) { MODE(flags, flags) return open_at(AT_FDCWD, path, flags, mode); }
EXPORT int open64(const char *path, int flags, ...) { MODE(flags, flags) return open_at(AT_FDCWD, path, flags, mode); }
EXPORT int openat(int folder, const char *path, int flags, ...) {
    MODE(flags, flags) return open_at(folder, path, flags, mode);
}
EXPORT int openat64(int folder, const char *path, int flags, ...) {
    MODE(flags, flags) return open_at(folder, path, flags, mode);
}
EXPORT int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
EXPORT int __openat_2(int folder, const char *path, int flags) { return open_at(folder, path, flags, 0); }
EXPORT int __openat64_2(int folder, const char *path, int flags) { return open_at(folder, path, flags, 0); }

EXPORT void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    int wanted = fd >= 0 && !(flags & MAP_ANONYMOUS) && !inside && watched(fd);
    uint64_t start = wanted ? now() : 0;
    void *result = NULL;
    int trapped = 0;
    if (wanted && shared->options & OPTION_DOORBELLS) result = trap_mapping(address, length, protection, flags, fd, offset);
    if (result) trapped = 1;
    else result = (void *)raw(SYS_mmap, (long)address, (long)length, protection, flags, fd, offset);
    if (wanted) {
        int error = result == MAP_FAILED ? errno : 0, keep = errno;
        sniff_record record = {.kind = MMAP, .fd = fd, .time = start, .duration = elapsed(start), .error = error,
                               .result = (int64_t)(intptr_t)result, .a = length,
                               .b = (uint64_t)(uint32_t)protection | (uint64_t)(uint32_t)flags << 32,
                               .c = (uint64_t)offset, .d = (uint64_t)trapped};
        put(&record, NULL, 0);
        if (!error) note_mapping((uint64_t)(uintptr_t)result, length, (uint64_t)offset);
        errno = keep;
    }
    return result;
}
EXPORT void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset)
    __attribute__((alias("mmap")));

EXPORT int munmap(void *address, size_t length) {
    if (shared && shared->options & OPTION_DOORBELLS) trap_removed(address, length);
    return (int)raw(SYS_munmap, (long)address, (long)length, 0, 0, 0, 0);
}

EXPORT int close(int fd) {
    if (!inside && shared && fd >= 0 && (fd >= KNOWN_FDS || known[fd] == WATCHED)) {
        sniff_record record = {.kind = CLOSE, .fd = fd, .time = now()};
        if (fd < KNOWN_FDS) put(&record, NULL, 0);
    }
    forget(fd);
    return (int)raw(SYS_close, fd, 0, 0, 0, 0, 0);
}

static int duplicated(int from, int to) {
    if (to >= 0) {
        forget(to);
        if (shared && !inside && from >= 0 && from < KNOWN_FDS && known[from] == WATCHED) {
            sniff_record record = {.kind = DUP, .fd = from, .time = now(), .result = to};
            put(&record, NULL, 0);
        }
    }
    return to;
}

EXPORT int dup(int fd) { return duplicated(fd, (int)raw(SYS_dup, fd, 0, 0, 0, 0, 0)); }
EXPORT int dup3(int fd, int to, int flags) { return duplicated(fd, (int)raw(SYS_dup3, fd, to, flags, 0, 0, 0)); }
EXPORT int dup2(int fd, int to) {
    if (fd == to) return (int)raw(SYS_fcntl, fd, F_GETFD, 0, 0, 0, 0) < 0 ? -1 : fd;
    return dup3(fd, to, 0);
}
EXPORT int close_range(unsigned first, unsigned last, int flags) {
    for (unsigned fd = first; fd <= last && fd < KNOWN_FDS; fd++) known[fd] = UNKNOWN;
    return (int)raw(SYS_close_range, first, last, flags, 0, 0, 0);
}

static void forked_child(void) {
    uint32_t parent = self;
    self = own_id = (uint32_t)getpid();
    memset(known, UNKNOWN, sizeof known);
    sniff_record record = {.kind = FORK, .fd = -1, .time = now(), .a = parent};
    put(&record, NULL, 0);
}

/* Programs that are started with an environment of their own are followed too. */
static char **with_us(char *const *environment, char **room, unsigned slots, char *preload, size_t preload_room,
                      char *capture, size_t capture_room) {
    unsigned count = 0;
    const char *others = "";
    for (char *const *each = environment; each && *each && count + 3 < slots; each++) {
        if (!strncmp(*each, "LD_PRELOAD=", 11)) {
            others = *each + 11;
            if (strstr(others, library_path)) return (char **)environment;
        } else if (strncmp(*each, "IOCTL_SNIFF_CAPTURE=", 20)) {
            room[count++] = *each;
        }
    }
    snprintf(preload, preload_room, "LD_PRELOAD=%s%s%s", library_path, *others ? ":" : "", others);
    snprintf(capture, capture_room, "IOCTL_SNIFF_CAPTURE=%s", capture_path);
    room[count++] = preload;
    room[count++] = capture;
    room[count] = NULL;
    return room;
}

static unsigned entries(char *const *environment) {
    unsigned count = 0;
    while (environment && environment[count]) count++;
    return count;
}

#define ENVIRONMENT(given) \
    char *room_[entries(given) + 4]; char preload_[4096], capture_[1100]; \
    char **ours = shared ? with_us(given, room_, entries(given) + 4, preload_, sizeof preload_, capture_, \
                                   sizeof capture_) : (char **)(given)

static void executing(const char *path) {
    if (!shared) return;
    sniff_record record = {.kind = EXEC, .fd = -1, .time = now()};
    put_text(&record, path ? path : "");
}

EXPORT int execve(const char *path, char *const arguments[], char *const environment[]) {
    ENVIRONMENT(environment);
    executing(path);
    return (int)raw(SYS_execve, (long)path, (long)arguments, (long)ours, 0, 0, 0);
}
EXPORT int execv(const char *path, char *const arguments[]) { return execve(path, arguments, environ); }
EXPORT int execvpe(const char *file, char *const arguments[], char *const environment[]) {
    static int (*next)(const char *, char *const[], char *const[]);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "execvpe");
    ENVIRONMENT(environment);
    executing(file);
    return next(file, arguments, ours);
}
EXPORT int execvp(const char *file, char *const arguments[]) { return execvpe(file, arguments, environ); }
EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
    static int (*next)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                       char *const[], char *const[]);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "posix_spawn");
    ENVIRONMENT(environment);
    return next(pid, path, actions, attributes, arguments, ours);
}
EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                        const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]) {
    static int (*next)(pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                       char *const[], char *const[]);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "posix_spawnp");
    ENVIRONMENT(environment);
    return next(pid, file, actions, attributes, arguments, ours);
}

/* Beginning -------------------------------------------------------------------------------------------------- */

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("IOCTL_SNIFF_CAPTURE");
    Dl_info info;
    if (!path || strlen(path) >= sizeof capture_path || !dladdr((void *)begin, &info)) return;
    strcpy(capture_path, path);
    snprintf(library_path, sizeof library_path, "%s", info.dli_fname);
    int fd = (int)raw(SYS_openat, AT_FDCWD, (long)path, O_RDWR | O_CLOEXEC, 0, 0, 0);
    if (fd < 0) return;
    sniff_header head;
    if (raw(SYS_pread64, fd, (long)&head, sizeof head, 0, 0, 0) == (long)sizeof head
            && !memcmp(head.magic, "IOSNIFF1", 8)) {
        void *at = (void *)raw(SYS_mmap, 0, (long)head.capacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                               fd, 0);
        if (at != MAP_FAILED) {
            self = (uint32_t)getpid();
            shared = at;
        }
    }
    raw(SYS_close, fd, 0, 0, 0, 0, 0);
    if (!shared) return;
    pthread_key_create(&room_key, room_done);
    pthread_atfork(NULL, NULL, forked_child);
    char program[512];
    long length = syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = 0;
    sniff_record record = {.kind = START, .fd = -1, .time = now()};
    put_text(&record, program);
    if (shared->options & OPTION_DOORBELLS) begin_traps();
}

/* For the build to compare with what the readers take the records to be. */
EXPORT uint64_t sniff_layout(void) {
    return sizeof(sniff_header) << 32 | sizeof(sniff_record) << 16 | sizeof(sniff_blob);
}
