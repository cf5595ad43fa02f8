/* A program for the tests: it talks to devices that every Linux has, in the ways that are hard to follow. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static int master;

static void *threads(void *number) {
    struct winsize size = {.ws_row = (unsigned short)(uintptr_t)number};
    for (int i = 0; i < 100; i++) ioctl(master, TIOCSWINSZ, &size);
    return NULL;
}

/* Ioctls of DRM's type do nothing and succeed from here on: a file stands for the card. */
static int every_drm_ioctl_succeeds(void) {
    struct sock_filter steps[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff00),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x6400, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {sizeof steps / sizeof *steps, steps};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

struct ib { uint32_t pad, flags; uint64_t va; uint32_t bytes, ip, instance, ring; };

/* Two command buffers, one in a mapped object and one in memory of our own, the first with a buffer in it. */
static int amdgpu(const char *card, const char *go) {
    while (go && access(go, F_OK)) usleep(10000);
    int fd = open(card, O_RDWR);
    if (fd < 0 || every_drm_ioctl_succeeds()) return 77;
    /* the handle is the offset that "the driver" gives: it leaves the argument as it was */
    uint64_t offset = 0x1000;
    ioctl(fd, 0xc0086441, &offset);                                             /* GEM_MMAP of handle 0x1000 */
    uint32_t *mapped = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);
    if (mapped == MAP_FAILED) return 78;
    struct { uint32_t handle, pad, operation, flags; uint64_t va, offset, size; } place =
        {0x1000, 0, 1, 0, 0x800100000, 0, 0x1000};
    ioctl(fd, 0x40286448, &place);                                              /* GEM_VA: map */
    static uint32_t own[1024] __attribute__((aligned(4096)));
    struct { uint64_t address, size; uint32_t flags, handle; } user = {(uint64_t)(uintptr_t)own, 0x1000, 0, 0x77};
    ioctl(fd, 0xc0186451, &user);                                               /* GEM_USERPTR */
    place.handle = 0x77;
    place.va = 0x800200000;
    ioctl(fd, 0x40286448, &place);
    uint32_t first[] = {0xc0023f00, 0x00100080, 0x8, 0x08800005,                /* INDIRECT_BUFFER: 5 words at 0x800100080 */
                        0xc0001000, 0};                                         /* NOP */
    uint32_t inner[] = {0xc0033700, 0x00000500, 0x2000, 0, 0x1234};             /* WRITE_DATA */
    memcpy(mapped, first, sizeof first);
    memcpy(mapped + 32, inner, sizeof inner);
    uint32_t fence[] = {5, 0x3000, 0, 42};                                      /* SDMA: FENCE */
    memcpy(own, fence, sizeof fence);
    struct ib ibs[] = {{0, 0, 0x800100000, sizeof first, 1, 0, 2},              /* compute ring 2 */
                       {0, 0, 0x800200000, sizeof fence, 2, 0, 1},              /* dma ring 1 */
                       {0, 0, 0x900000000, 64, 0, 0, 0}};                       /* nobody mapped it */
    struct { uint32_t id, dwords; uint64_t data; } chunks[] = {
        {1, 8, (uint64_t)(uintptr_t)&ibs[0]}, {2, 2, (uint64_t)(uintptr_t)first},    /* an IB, a fence */
        {1, 8, (uint64_t)(uintptr_t)&ibs[1]}, {1, 8, (uint64_t)(uintptr_t)&ibs[2]}};
    uint64_t pointers[] = {(uint64_t)(uintptr_t)&chunks[0], (uint64_t)(uintptr_t)&chunks[1],
                           (uint64_t)(uintptr_t)&chunks[2], (uint64_t)(uintptr_t)&chunks[3]};
    struct { uint32_t ctx, list, chunks, flags; uint64_t pointers; } submit = {1, 0, 4, 0, (uint64_t)(uintptr_t)pointers};
    ioctl(fd, 0xc0186444, &submit);                                             /* CS */
    submit.pointers = 8;                                                        /* a wild one: no crash of ours */
    ioctl(fd, 0xc0186444, &submit);
    return 0;
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "plain";
    master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    if (master < 0) return 77;
    struct winsize size = {.ws_row = 24, .ws_col = 80}, got = {0};
    if (!strcmp(what, "plain")) {
        ioctl(master, TIOCSWINSZ, &size);
        ioctl(master, TIOCGWINSZ, &got);
        int copy = dup(master);
        ioctl(copy, TIOCGWINSZ, &got);
        close(copy);
        errno = 0;
        int failed = ioctl(master, TCGETS, (void *)8);              /* a wild pointer */
        return failed == -1 && errno == EFAULT && got.ws_col == 80 ? 3 : 4;
    }
    if (!strcmp(what, "threads")) {
        pthread_t all[4];
        for (uintptr_t i = 0; i < 4; i++) pthread_create(&all[i], NULL, threads, (void *)i);
        for (int i = 0; i < 4; i++) pthread_join(all[i], NULL);
        return 0;
    }
    if (!strcmp(what, "children")) {
        int many = atoi(arguments[2]);
        for (int i = 0; i < many; i++) {
            int child = fork();
            if (!child) {
                size.ws_row = (unsigned short)i;
                ioctl(master, TIOCSWINSZ, &size);
                _exit(0);
            }
            if (i % 16 == 15) while (waitpid(-1, NULL, 0) > 0);
        }
        while (waitpid(-1, NULL, 0) > 0);
        return 0;
    }
    if (!strcmp(what, "exec")) {                                    /* with an environment of its own */
        char *const environment[] = {"A=b", NULL};
        char *const again[] = {arguments[0], "plain", NULL};
        return execve(arguments[0], again, environment);
    }
    if (!strcmp(what, "crash")) {
        ioctl(master, TIOCGWINSZ, &got);
        *(volatile int *)1 = 1;
    }
    if (!strcmp(what, "daemon")) {                                  /* lives on when the program has ended */
        if (fork()) return 6;
        setsid();
        usleep(300000);
        for (int i = 0; i < 2000; i++) {                            /* more than a page of records */
            size.ws_row = (unsigned short)i;
            ioctl(master, TIOCSWINSZ, &size);
        }
        return 0;
    }
    if (!strcmp(what, "killed")) {
        for (int i = 0;; i++) {
            ioctl(master, TIOCSWINSZ, &size);
            if (i == 1000) {
                puts("ready");
                fflush(stdout);
            }
        }
    }
    if (!strcmp(what, "loop")) {
        int loop = open("/dev/loop-control", O_RDWR);
        if (loop < 0) return 77;
        int number = ioctl(loop, LOOP_CTL_GET_FREE);
        char path[32];
        snprintf(path, sizeof path, "/dev/loop%d", number);
        int device = open(path, O_RDWR), file = memfd_create("disk", 0);
        if (device < 0 || ftruncate(file, 1 << 20) || ioctl(device, LOOP_SET_FD, file)) return 77;
        struct loop_info64 info = {.lo_flags = LO_FLAGS_AUTOCLEAR, .lo_offset = 4096};
        strcpy((char *)info.lo_file_name, "a disk");
        ioctl(device, LOOP_SET_STATUS64, &info);
        memset(&info, 0, sizeof info);
        ioctl(device, LOOP_GET_STATUS64, &info);
        ioctl(device, LOOP_CLR_FD, 0);
        return 0;
    }
    if (!strcmp(what, "doorbells")) {                               /* stores of two widths to a page that is trapped */
        int file = open(arguments[2], O_RDWR);
        volatile uint32_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        page[4] = 0x11223344;
        *(volatile uint64_t *)(page + 8) = 0x5566778899aabbccull;
        uint32_t back = page[4];
        page[4] = back + 1;
        munmap((void *)page, 4096);
        return back == 0x11223344 ? 0 : 5;
    }
    if (!strcmp(what, "amdgpu")) return amdgpu(arguments[2], count > 3 ? arguments[3] : NULL);
    if (!strcmp(what, "speed")) {
        struct timespec a, b;
        int many = atoi(arguments[2]);
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int i = 0; i < many; i++) ioctl(master, TIOCGWINSZ, &got);
        clock_gettime(CLOCK_MONOTONIC, &b);
        printf("%.1f\n", ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / many);
        return 0;
    }
    return 2;
}
