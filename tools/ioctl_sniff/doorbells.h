/* Doorbells: pages whose stores ring an engine. A trapped mapping is a page without access that stands before the real
 * one: a store faults, is let through to a page of ours for one instruction, found there, carried out on the real page and
 * recorded, with what it announces in the ring and in the indirect buffers that the ring names. Only x86-64 steps so. */

#define MAX_TRAPS 32
#define MAX_QUEUES 64
#define POISON 0xa5
#define PAGE 4096u

typedef struct { char *at, *real; size_t length; } trap;
typedef struct { uint64_t ring, doorbell, done; uint32_t size, type, id; } ring_queue;

static trap traps[MAX_TRAPS];
static unsigned trap_count;
static ring_queue queues[MAX_QUEUES];
static unsigned queue_count;
static struct sigaction others_segv, others_trap;
static int trapping;
static __thread char *open_page;
static __thread trap *open_trap;
static __thread uint64_t *loaded;           /* a word that we put there for a load, and what */
static __thread uint64_t loaded_value;
static volatile int page_lock;

/* KFD's argument of AMDKFD_IOC_CREATE_QUEUE (linux/kfd_ioctl.h, kfd_ioctl_create_queue_args). */
#define KFD_CREATE_QUEUE 0x4b02
#define KFD_DOORBELLS(offset) ((uint64_t)(offset) >> 62 == 3)               /* KFD_MMAP_TYPE_DOORBELL */
#define VFIO_BAR2(offset) ((uint64_t)(offset) >> 40 == 2)                   /* VFIO_PCI_OFFSET_SHIFT */

static void note_queue(unsigned long request, uint64_t arg, int error) {
    if ((request & 0xffff) != KFD_CREATE_QUEUE || error || queue_count == MAX_QUEUES) return;
    uint64_t q[8];
    if (peek(q, arg, sizeof q) != sizeof q) return;
    queues[queue_count++] = (ring_queue){.ring = q[0], .doorbell = q[3], .size = (uint32_t)q[4],
                                         .type = (uint32_t)q[5], .id = (uint32_t)(q[6] >> 32)};
}

#ifdef __x86_64__

static trap *trap_at(uint64_t address) {
    for (unsigned i = 0; i < trap_count; i++)
        if (address >= (uint64_t)traps[i].at && address < (uint64_t)traps[i].at + traps[i].length) return &traps[i];
    return NULL;
}

static void *trap_mapping(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (trap_count == MAX_TRAPS || !(protection & PROT_WRITE) || length > 8u << 20 || !(flags & MAP_SHARED)) return NULL;
    if (!KFD_DOORBELLS(offset) && !VFIO_BAR2(offset) && !(shared->options & 8)) return NULL;
    void *real = (void *)raw(SYS_mmap, 0, (long)length, protection, flags & ~MAP_FIXED, fd, offset);
    if (real == MAP_FAILED) return NULL;
    void *at = (void *)raw(SYS_mmap, (long)address, (long)length, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | (flags & MAP_FIXED), -1, 0);
    if (at == MAP_FAILED) {
        raw(SYS_munmap, (long)real, (long)length, 0, 0, 0, 0);
        return NULL;
    }
    traps[trap_count++] = (trap){at, real, length};
    return at;
}

static void trap_removed(void *address, size_t length) {
    for (unsigned i = 0; i < trap_count; i++)
        if (traps[i].at >= (char *)address && traps[i].at < (char *)address + length) {
            raw(SYS_munmap, (long)traps[i].real, (long)traps[i].length, 0, 0, 0, 0);
            traps[i].at = NULL;
            traps[i].length = 0;
        }
}

/* What a doorbell's new value announces: the ring from where we were to there, and the buffers that it names. */
static void dump(const trap *t, uint64_t offset, uint64_t value) {
    for (unsigned i = 0; i < queue_count; i++) {
        ring_queue *q = &queues[i];
        if ((q->doorbell & (t->length - 1)) != offset || !q->size) continue;
        uint64_t end = q->type == 2 ? (value + 1) * 64 : q->type == 1 ? value : value * 4;      /* AQL, SDMA, PM4 */
        uint64_t begin = q->done, length = end - begin;
        q->done = end;
        if (!length || length > q->size) return;
        char *into = room();
        if (!into || length > MAX_BYTES / 4) return;
        piece pieces[MAX_BLOBS];
        unsigned count = 0;
        uint64_t first = begin % q->size, whole = length;
        size_t used = 0;
        while (length && count < 2) {               /* two pieces where the ring wraps */
            uint64_t part = q->size - first < length ? q->size - first : length;
            size_t got = peek(into + used, q->ring + first, part);
            if (!got) return;
            pieces[count++] = (piece){q->ring + first, (uint32_t)got, 1, into + used};
            used += got;
            length -= part;
            first = 0;
        }
        const uint32_t *words = (const uint32_t *)into;
        size_t total = used / 4;
        for (size_t w = 0; q->type == 0 && w + 3 < total && count < MAX_BLOBS;) {
            uint32_t header = words[w];
            if (header >> 30 != 3) { w++; continue; }
            if ((header >> 8 & 0xff) == 0x3f) {     /* INDIRECT_BUFFER: address, then its size in words */
                uint64_t address = words[w + 1] | (uint64_t)(words[w + 2] & 0xffff) << 32;
                uint32_t bytes = (words[w + 3] & 0xfffff) * 4;
                used = (used + 7) & ~7ul;
                if (bytes && used + bytes < MAX_BYTES) {
                    size_t got = peek(into + used, address, bytes);
                    if (got) pieces[count++] = (piece){address, (uint32_t)got, 1, into + used};
                    used += got;
                }
            }
            w += 2 + (header >> 16 & 0x3fff);
        }
        sniff_record record = {.kind = DUMP, .fd = -1, .time = now(), .result = (int64_t)whole, .a = q->type,
                               .b = q->id, .c = value, .d = q->ring};
        put(&record, pieces, count);
        return;
    }
}

static void carry_out(trap *t, char *page) {
    /* Other threads may have stored here while it was open, so the whole page is looked at. */
    for (unsigned at = 0; at < PAGE; at += 8) {
        uint64_t value, poison;
        memset(&poison, POISON, 8);
        memcpy(&value, page + at, 8);
        if (value == poison || (page + at == (char *)loaded && value == loaded_value)) continue;
        uint64_t offset = (uint64_t)(page - t->at) + at;
        int low = (uint32_t)value != (uint32_t)poison, high = value >> 32 != poison >> 32;
        unsigned width = low && high ? 8 : 4;
        if (width == 8) *(volatile uint64_t *)(t->real + offset) = value;
        else if (low) *(volatile uint32_t *)(t->real + offset) = (uint32_t)value;
        else *(volatile uint32_t *)(t->real + (offset += 4)) = (uint32_t)(value >>= 32);
        if (width == 4) value &= 0xffffffffu;
        inside = 1;
        sniff_record record = {.kind = DOORBELL, .fd = -1, .time = now(), .result = (int64_t)value,
                               .a = (uint64_t)(t->at + offset), .b = offset, .c = width};
        dump(t, offset, value);
        put(&record, NULL, 0);
        inside = 0;
    }
}

static void pass_on(struct sigaction *next, int signal_number, siginfo_t *info, void *context) {
    if (next->sa_flags & SA_SIGINFO && next->sa_sigaction) {
        next->sa_sigaction(signal_number, info, context);
    } else if (next->sa_handler != SIG_DFL && next->sa_handler != SIG_IGN && next->sa_handler) {
        next->sa_handler(signal_number);
    } else {                                        /* as if we were not there: it happens again, without us */
        struct sigaction plain = {.sa_handler = SIG_DFL};
        trapping = 0;
        sigaction(signal_number, &plain, NULL);
    }
}

static void faulted(int signal_number, siginfo_t *info, void *context) {
    ucontext_t *state = context;
    trap *t = trap_at((uint64_t)(uintptr_t)info->si_addr);
    if (!t || open_page) {
        pass_on(&others_segv, signal_number, info, context);
        return;
    }
    while (__atomic_exchange_n(&page_lock, 1, __ATOMIC_ACQUIRE)) raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
    char *page = (char *)((uint64_t)(uintptr_t)info->si_addr & ~(uint64_t)(PAGE - 1));
    raw(SYS_mprotect, (long)page, PAGE, PROT_READ | PROT_WRITE, 0, 0, 0);
    memset(page, POISON, PAGE);
    if (!(state->uc_mcontext.gregs[REG_ERR] & 2)) { /* a load: from the device, once, into where it will look */
        uint64_t offset = ((uint64_t)(uintptr_t)info->si_addr & ~7ull) - (uint64_t)t->at;
        loaded = (uint64_t *)(t->at + offset);
        *loaded = loaded_value = *(volatile uint64_t *)(t->real + offset);
    }
    open_page = page;
    open_trap = t;
    state->uc_mcontext.gregs[REG_EFL] |= 0x100;     /* TF: a trap after this instruction */
}

static void stepped(int signal_number, siginfo_t *info, void *context) {
    ucontext_t *state = context;
    if (!open_page) {
        pass_on(&others_trap, signal_number, info, context);
        return;
    }
    int keep = errno;
    char *page = open_page;
    state->uc_mcontext.gregs[REG_EFL] &= ~0x100;
    raw(SYS_mprotect, (long)page, PAGE, PROT_READ, 0, 0, 0);        /* nobody stores from here on */
    carry_out(open_trap, page);
    raw(SYS_mprotect, (long)page, PAGE, PROT_NONE, 0, 0, 0);
    open_page = NULL;
    loaded = NULL;
    __atomic_store_n(&page_lock, 0, __ATOMIC_RELEASE);
    errno = keep;
}

static void begin_traps(void) {
    struct sigaction ours = {.sa_sigaction = faulted, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGSEGV, &ours, &others_segv);
    ours.sa_sigaction = stepped;
    sigaction(SIGTRAP, &ours, &others_trap);
    trapping = 1;
}

/* The target's own handlers of these two signals stand behind ours. */
EXPORT int sigaction(int signal_number, const struct sigaction *action, struct sigaction *old) {
    static int (*next)(int, const struct sigaction *, struct sigaction *);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "sigaction");
    if (!trapping || (signal_number != SIGSEGV && signal_number != SIGTRAP)) return next(signal_number, action, old);
    struct sigaction *behind = signal_number == SIGSEGV ? &others_segv : &others_trap;
    struct sigaction keep = *behind;
    if (action) *behind = *action;
    if (old) *old = keep;
    return 0;
}

#else

static void *trap_mapping(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    (void)address; (void)length; (void)protection; (void)flags; (void)fd; (void)offset;
    return NULL;
}

static void trap_removed(void *address, size_t length) { (void)address; (void)length; }

static void begin_traps(void) {}

#endif
