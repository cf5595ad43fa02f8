/* Command buffers of DRM_IOCTL_AMDGPU_CS: where the program has them in its own memory, and what is in them at the submit.
 *
 * A buffer object is known by its handle; GEM_MMAP gives the offset by which it is mapped, GEM_VA its place in the GPU's
 * address space, GEM_USERPTR makes one of the program's own memory. Layouts: linux/amdgpu_drm.h. Tables are rings: of very
 * many objects the last ones are known. Newest first: numbers are used again. */

#define KNOWN_OBJECTS 4096u
#define KNOWN_MAPPINGS 4096u
#define KNOWN_PLACES 16384u
#define LARGEST_IB (1u << 20)
#define IB_NESTING 3

#define AMDGPU_GEM_MMAP 0x6441
#define AMDGPU_CS 0x6444
#define AMDGPU_GEM_VA 0x6448
#define AMDGPU_GEM_USERPTR 0x6451
#define AMDGPU_VA_OP_MAP 1
#define AMDGPU_VA_OP_REPLACE 4
#define AMDGPU_CHUNK_ID_IB 1
#define AMDGPU_HW_IP_DMA 2

typedef struct { uint64_t offset, address, size; uint32_t handle; } gem_object;     /* offset of mmap, or address: userptr */
typedef struct { uint64_t address, length, offset; } gem_mapping;
typedef struct { uint64_t va, size, offset; uint32_t handle; } gem_place;

static gem_object objects[KNOWN_OBJECTS];
static gem_mapping mappings[KNOWN_MAPPINGS];
static gem_place places[KNOWN_PLACES];
static unsigned object_count, mapping_count, place_count;
static volatile int gem_lock;

static void gem_enter(void) {
    while (__atomic_exchange_n(&gem_lock, 1, __ATOMIC_ACQUIRE)) raw(SYS_sched_yield, 0, 0, 0, 0, 0, 0);
}
static void gem_leave(void) { __atomic_store_n(&gem_lock, 0, __ATOMIC_RELEASE); }

static void note_mapping(uint64_t address, uint64_t length, uint64_t offset) {
    gem_enter();
    mappings[mapping_count++ % KNOWN_MAPPINGS] = (gem_mapping){address, length, offset};
    gem_leave();
}

static unsigned oldest(unsigned count, unsigned known) { return count > known ? count - known : 0; }

/* Where the program has `length` bytes at a GPU address; 0: not mapped by it. */
static uint64_t host_address(uint64_t va, uint64_t *length) {
    for (unsigned i = place_count; i-- > oldest(place_count, KNOWN_PLACES);) {
        const gem_place *p = &places[i % KNOWN_PLACES];
        if (va < p->va || va >= p->va + p->size) continue;
        uint64_t at = p->offset + (va - p->va), left = p->size - (va - p->va);
        if (*length > left) *length = left;
        for (unsigned j = object_count; j-- > oldest(object_count, KNOWN_OBJECTS);) {
            const gem_object *o = &objects[j % KNOWN_OBJECTS];
            if (o->handle != p->handle) continue;
            if (o->address) return o->address + at;
            for (unsigned k = mapping_count; k-- > oldest(mapping_count, KNOWN_MAPPINGS);) {
                const gem_mapping *m = &mappings[k % KNOWN_MAPPINGS];
                if (o->offset + at >= m->offset && o->offset + at < m->offset + m->length)
                    return m->address + (o->offset + at - m->offset);
            }
        }
        return 0;
    }
    return 0;
}

typedef struct { piece pieces[MAX_BLOBS]; unsigned count; char *into; size_t used; } ib_pile;

/* A buffer, and those that its packets name: PM4's INDIRECT_BUFFER (0x3f). */
static void gather_ib(ib_pile *p, uint64_t va, uint64_t bytes, int pm4, int depth) {
    if (!bytes || bytes > LARGEST_IB || p->count == MAX_BLOBS || p->used + bytes > MAX_BYTES / 2) return;
    uint64_t at = host_address(va, &bytes);
    if (!at) return;
    char *here = p->into + p->used;
    size_t got = peek(here, at, bytes);
    if (!got) return;
    p->pieces[p->count++] = (piece){va, (uint32_t)got, 1, here};
    p->used += (got + 7u) & ~7ul;
    const uint32_t *words = (const uint32_t *)here;
    for (size_t w = 0, total = got / 4; pm4 && depth < IB_NESTING && w + 3 < total;) {
        uint32_t header = words[w];
        if (header >> 30 != 3) { w++; continue; }
        if ((header >> 8 & 0xff) == 0x3f)
            gather_ib(p, words[w + 1] | (uint64_t)(words[w + 2] & 0xffff) << 32, (uint64_t)(words[w + 3] & 0xfffff) * 4,
                      pm4, depth + 1);
        w += 2 + (header >> 16 & 0x3fff);
    }
}

static void note_submit(int fd, uint64_t arg, uint64_t time) {
    struct { uint32_t ctx, list, chunks, flags; uint64_t pointers; } in;
    if (peek(&in, arg, sizeof in) != sizeof in) return;
    for (uint32_t i = 0; i < in.chunks && i < 64; i++) {
        uint64_t at = 0;
        struct { uint32_t id, dwords; uint64_t data; } chunk;
        struct { uint32_t pad, flags; uint64_t va; uint32_t bytes, ip, instance, ring; } ib;
        if (peek(&at, in.pointers + 8u * i, 8) != 8 || peek(&chunk, at, sizeof chunk) != sizeof chunk) return;
        if (chunk.id != AMDGPU_CHUNK_ID_IB || peek(&ib, chunk.data, sizeof ib) != sizeof ib) continue;
        ib_pile p = {.into = room()};
        if (!p.into) return;
        gem_enter();
        gather_ib(&p, ib.va, ib.bytes, ib.ip < AMDGPU_HW_IP_DMA, 0);
        gem_leave();
        sniff_record record = {.kind = DUMP, .fd = fd, .time = time + 1, .result = (int64_t)ib.bytes, .a = ib.ip,
                               .b = (uint64_t)ib.instance << 32 | ib.ring, .c = ib.flags, .d = ib.va};
        put(&record, p.pieces, p.count);
    }
}

/* After an ioctl of amdgpu that the kernel did. */
static void note_amdgpu(int fd, uint32_t request, uint64_t arg, uint32_t handle_before, uint64_t time) {
    switch (request & 0xffff) {
    case AMDGPU_GEM_MMAP: {
        uint64_t offset;
        if (peek(&offset, arg, 8) != 8) return;
        gem_enter();
        objects[object_count++ % KNOWN_OBJECTS] = (gem_object){offset, 0, 0, handle_before};
        gem_leave();
        return;
    }
    case AMDGPU_GEM_USERPTR: {
        struct { uint64_t address, size; uint32_t flags, handle; } own;
        if (peek(&own, arg, sizeof own) != sizeof own) return;
        gem_enter();
        objects[object_count++ % KNOWN_OBJECTS] = (gem_object){0, own.address, own.size, own.handle};
        gem_leave();
        return;
    }
    case AMDGPU_GEM_VA: {
        struct { uint32_t handle, pad, operation, flags; uint64_t va, offset, size; } map;
        if (peek(&map, arg, sizeof map) != sizeof map) return;
        if (map.operation != AMDGPU_VA_OP_MAP && map.operation != AMDGPU_VA_OP_REPLACE) return;
        gem_enter();
        places[place_count++ % KNOWN_PLACES] = (gem_place){map.va, map.size, map.offset, map.handle};
        gem_leave();
        return;
    }
    case AMDGPU_CS:
        note_submit(fd, arg, time);
    }
}
