/* A program for the tests: it talks to devices that every Linux has, in the ways that are hard to follow. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
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
