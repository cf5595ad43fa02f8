/* What the recorder and its readers share: the form of a capture file. Read by the C compiler and by cffi's cdef. */

typedef struct {
    char magic[8];              /* "IOSNIFF1" */
    uint64_t head;              /* bytes in use; where the next record goes (atomic) */
    uint64_t capacity;          /* bytes that the file may have */
    uint64_t lost;              /* records that did not fit (atomic) */
    uint64_t start;             /* of the records */
    uint64_t programs;          /* byte offset of the table of pointer programs, and its length in words */
    uint64_t program_words;
    uint64_t metadata;          /* byte offset and length of a JSON object: command, start, machine */
    uint64_t metadata_bytes;
    uint32_t options;
    uint32_t patterns;          /* device paths that are watched (fnmatch) */
    uint64_t types[4];          /* bit n: ioctls of type byte n are recorded */
    char pattern[48][256];
} sniff_header;

typedef struct {
    uint32_t magic;             /* 0x31534f49 */
    uint32_t length;            /* bytes with the blobs; bit 31 is set while it is being written */
    uint16_t kind;
    uint16_t blobs;
    uint32_t pid;
    uint32_t tid;
    int32_t fd;
    uint64_t time;              /* CLOCK_MONOTONIC, ns */
    uint32_t duration;          /* ns; all ones: longer */
    int32_t error;              /* errno, 0 on success */
    int64_t result;
    uint64_t a;
    uint64_t b;
    uint64_t c;
    uint64_t d;
} sniff_record;

typedef struct {
    uint64_t address;
    uint32_t length;            /* bytes that follow, then padding to 8 */
    uint16_t phase;             /* 0 before the call, 1 after, 2 text (a path, a stack) */
    uint16_t unused;
} sniff_blob;
