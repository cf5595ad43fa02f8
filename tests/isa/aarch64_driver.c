// Runs compiled waves in a process of its own: what Python prepared comes from a file, what became of it goes to one.
// Layout of the input, all numbers 64 bits: context, patches (field, block), blocks, pages (address, 4096 bytes).

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE_BYTES = 4096 };

int32_t RUN(uint8_t *context);
int32_t wave(uint8_t *context, uint8_t *state);

static uint8_t *input, *pages;
static uint64_t page_count;

static uint64_t number(void) {
    uint64_t n;
    memcpy(&n, input, 8);
    input += 8;
    return n;
}

static uint64_t miss(uint64_t address, uint32_t kind) {
    (void)kind;
    for (uint64_t i = 0; i < page_count; i++) {
        uint64_t at;
        memcpy(&at, pages + i * (PAGE_BYTES + 8), 8);
        if (at == (address & ~(uint64_t)(PAGE_BYTES - 1))) return (uint64_t)(pages + i * (PAGE_BYTES + 8) + 8);
    }
    fprintf(stderr, "no page for %#llx\n", (unsigned long long)address);
    return 0;
}

static void *aligned(uint64_t size) {
    return aligned_alloc(PAGE_BYTES, (size + 2 * PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    FILE *file = fopen(argv[1], "rb");
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    uint8_t *whole = input = malloc(size);
    if (fread(input, 1, size, file) != (size_t)size) return 2;
    fclose(file);

    uint64_t context_size = number();
    uint8_t *context = aligned(context_size);
    memcpy(context, input, context_size);
    input += context_size;
    uint64_t patches = number(), *patch = (uint64_t *)input;
    input += 16 * patches;
    uint64_t blocks = number();
    uint8_t **block = calloc(blocks, sizeof *block);
    uint64_t *sizes = calloc(blocks, sizeof *sizes);
    for (uint64_t i = 0; i < blocks; i++) {
        sizes[i] = number();
        block[i] = aligned(sizes[i]);
        memcpy(block[i], input, sizes[i]);
        input += sizes[i];
    }
    for (uint64_t i = 0; i < patches; i++) *(uint8_t **)(context + patch[2 * i]) = block[patch[2 * i + 1]];
    page_count = number();
    pages = aligned(page_count * (PAGE_BYTES + 8));
    memcpy(pages, input, page_count * (PAGE_BYTES + 8));
    *(uint64_t (**)(uint64_t, uint32_t))(context + MISS) = miss;
    *(int32_t (**)(uint8_t *, uint8_t *))(context + FUNCTION) = wave;

    int32_t reason;
    while ((reason = RUN(context)) == YIELD) ++*(uint64_t *)(context + WAVE);
    if (reason) {
        fprintf(stderr, "stopped with %d at pc %#llx\n", reason, *(unsigned long long *)(context + PC));
        return 3;
    }
    file = fopen(argv[2], "wb");
    fwrite(context, 1, context_size, file);
    for (uint64_t i = 0; i < blocks; i++) fwrite(block[i], 1, sizes[i], file);
    fwrite(pages, 1, page_count * (PAGE_BYTES + 8), file);
    fclose(file);
    free(whole);
    return 0;
}
