/* Shared by the load and the floor: time, failures, frames. RFC 6455. */
#ifndef BENCH_WS_H
#define BENCH_WS_H

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { TEXT = 0x81, CLOSE = 0x88, PING = 0x89, PONG = 0x8A };

static inline void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static inline void *allocate(void *old, size_t size)
{
    void *new = realloc(old, size);
    if (new == NULL)
        fail("out of memory");
    return new;
}

static inline uint64_t clock_ns(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        fail("clock: %s", strerror(errno));
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static inline uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

/* Writes the head of a frame, and returns its length. `mask` is 0x80 or 0. */
static inline size_t frame_head(unsigned char *head, int opcode, size_t size, int mask)
{
    head[0] = (unsigned char)opcode;
    if (size < 126) {
        head[1] = (unsigned char)(mask | (int)size);
        return 2;
    }
    int bytes = size < 65536 ? 2 : 8;
    head[1] = (unsigned char)(mask | (bytes == 2 ? 126 : 127));
    for (int i = 0; i < bytes; i++)
        head[2 + i] = (unsigned char)((uint64_t)size >> (8 * (bytes - 1 - i)));
    return 2 + (size_t)bytes;
}

/* Returns the length of the head, 0 while it is incomplete, and stores that of the payload. */
static inline size_t read_head(const unsigned char *data, size_t there, uint64_t *size)
{
    if (there < 2)
        return 0;
    size_t head = 2 + (data[1] & 0x80 ? 4 : 0);
    int bytes = 0;
    *size = data[1] & 0x7F;
    if (*size == 126)
        bytes = 2;
    else if (*size == 127)
        bytes = 8;
    if (there < head + (size_t)bytes)
        return 0;
    if (bytes) {
        *size = 0;
        for (int i = 0; i < bytes; i++)
            *size = *size << 8 | data[2 + i];
    }
    return head + (size_t)bytes;
}

/* XOR with the mask, eight bytes at a time. */
static inline void apply_mask(unsigned char *out, const unsigned char *in, size_t size,
                              const unsigned char *mask)
{
    uint32_t four;
    memcpy(&four, mask, 4);
    uint64_t eight = (uint64_t)four << 32 | four;
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, in + i, 8);
        word ^= eight;
        memcpy(out + i, &word, 8);
    }
    for (; i < size; i++)
        out[i] = in[i] ^ mask[i & 3];
}

#endif
