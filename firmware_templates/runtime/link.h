/* Frames on a serial line, as docs/link.md has them. Needs nothing but a C compiler and <string.h>. */
#ifndef LINK_H
#define LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINK_PROTOCOL 2u
#define LINK_DATA_MAX 512u /* bytes of input or output in one frame */

enum link_kind {
    LINK_HELLO = 0x01,
    LINK_WRITE = 0x02,
    LINK_RUN = 0x03,
    LINK_READ = 0x04,
    LINK_REPLY = 0x80, /* added to the kind of the request that it answers */
    LINK_FAULT = 0xFE, /* the processor's last words before it resets */
    LINK_ERROR = 0xFF,
};

enum link_error {
    LINK_ERROR_KIND = 1,   /* no such request */
    LINK_ERROR_LENGTH = 2, /* the payload is too short or too long for its kind */
    LINK_ERROR_RANGE = 3,  /* offset and length leave the input or output buffer */
    LINK_ERROR_INPUT = 4,  /* the input buffer does not hold what the host means to have written */
    LINK_ERROR_WEIGHTS = 5, /* the network's constants are not those that it was built with */
};

#define LINK_HEADER_BYTES 3u /* kind, sequence number (little-endian) */
#define LINK_CRC_BYTES 4u
#define LINK_FRAME_MAX (LINK_HEADER_BYTES + 4u + LINK_DATA_MAX + LINK_CRC_BYTES)

/* A frame before COBS: kind, sequence, payload and, once sealed or received, the CRC-32 of all of these. */
struct link_frame {
    uint8_t bytes[LINK_FRAME_MAX];
    size_t length;
};

/* Decodes COBS byte by byte into `frame`; start it as zeros. */
struct link_parser {
    struct link_frame frame;
    uint8_t block_left; /* bytes until the next COBS code byte */
    bool zero_due;      /* the block before ends with a zero, unless the frame does */
    bool overrun;       /* the frame is too long: drop it */
    bool restart;       /* a frame ended with the last byte */
};

/* CRC-32 as in zlib. */
uint32_t link_crc32(const uint8_t *bytes, size_t count);

/* Takes one byte. True when it completes a frame whose checksum is right; the frame holds until the next call. */
bool link_feed(struct link_parser *parser, uint8_t byte);

void link_begin(struct link_frame *frame, uint8_t kind, uint16_t sequence);
void link_put(struct link_frame *frame, const void *bytes, size_t count); /* what does not fit is left out */
void link_put_u32(struct link_frame *frame, uint32_t value);
void link_seal(struct link_frame *frame);
void link_send(const struct link_frame *frame, void (*write)(const uint8_t *bytes, size_t count));

uint8_t link_kind(const struct link_frame *frame);
uint16_t link_sequence(const struct link_frame *frame);
size_t link_payload_bytes(const struct link_frame *frame);
uint32_t link_get_u32(const struct link_frame *frame, size_t payload_offset);

#endif
