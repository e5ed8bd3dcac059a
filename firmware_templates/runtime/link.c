#include "link.h"

#include <string.h>

uint32_t link_crc32(const uint8_t *bytes, size_t count)
{
    /* Half a byte at a time: 64 bytes of table, twice the work of a 1 kB one. */
    static const uint32_t table[16] = {
        0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
        0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
    };
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < count; ++i) {
        crc ^= bytes[i];
        crc = (crc >> 4) ^ table[crc & 15u];
        crc = (crc >> 4) ^ table[crc & 15u];
    }
    return ~crc;
}

static uint32_t load_u32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static void parser_store(struct link_parser *parser, uint8_t byte)
{
    struct link_frame *frame = &parser->frame;
    if (frame->length < LINK_FRAME_MAX)
        frame->bytes[frame->length++] = byte;
    else
        parser->overrun = true;
}

static bool parser_accepts(const struct link_parser *parser)
{
    const struct link_frame *frame = &parser->frame;
    if (parser->block_left != 0 || parser->overrun || frame->length < LINK_HEADER_BYTES + LINK_CRC_BYTES)
        return false;
    const size_t covered = frame->length - LINK_CRC_BYTES;
    return link_crc32(frame->bytes, covered) == load_u32(frame->bytes + covered);
}

bool link_feed(struct link_parser *parser, uint8_t byte)
{
    if (parser->restart) {
        parser->frame.length = 0;
        parser->block_left = 0;
        parser->zero_due = parser->overrun = parser->restart = false;
    }
    if (byte == 0) {
        parser->restart = true;
        return parser_accepts(parser);
    }
    if (parser->block_left > 0) {
        parser->block_left--;
        parser_store(parser, byte);
        return false;
    }
    if (parser->zero_due)
        parser_store(parser, 0);
    parser->block_left = (uint8_t)(byte - 1u);
    parser->zero_due = byte != 0xFFu;
    return false;
}

void link_begin(struct link_frame *frame, uint8_t kind, uint16_t sequence)
{
    frame->bytes[0] = kind;
    frame->bytes[1] = (uint8_t)sequence;
    frame->bytes[2] = (uint8_t)(sequence >> 8);
    frame->length = LINK_HEADER_BYTES;
}

void link_put(struct link_frame *frame, const void *bytes, size_t count)
{
    if (count > LINK_FRAME_MAX - frame->length)
        return;
    memcpy(frame->bytes + frame->length, bytes, count);
    frame->length += count;
}

void link_put_u32(struct link_frame *frame, uint32_t value)
{
    const uint8_t bytes[4] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};
    link_put(frame, bytes, sizeof bytes);
}

void link_seal(struct link_frame *frame)
{
    link_put_u32(frame, link_crc32(frame->bytes, frame->length));
}

void link_send(const struct link_frame *frame, void (*write)(const uint8_t *bytes, size_t count))
{
    const uint8_t delimiter = 0;
    write(&delimiter, 1); /* ends whatever noise came before */
    for (size_t start = 0;;) {
        size_t end = start;
        while (end < frame->length && frame->bytes[end] != 0 && end - start < 254u)
            end++;
        const uint8_t code = (uint8_t)(end - start + 1u);
        write(&code, 1);
        write(frame->bytes + start, end - start);
        if (end == frame->length)
            break;
        start = code == 0xFFu ? end : end + 1u; /* a full block stands for no zero */
    }
    write(&delimiter, 1);
}

uint8_t link_kind(const struct link_frame *frame)
{
    return frame->bytes[0];
}

uint16_t link_sequence(const struct link_frame *frame)
{
    return (uint16_t)(frame->bytes[1] | frame->bytes[2] << 8);
}

size_t link_payload_bytes(const struct link_frame *frame)
{
    return frame->length - LINK_HEADER_BYTES - LINK_CRC_BYTES;
}

uint32_t link_get_u32(const struct link_frame *frame, size_t payload_offset)
{
    return load_u32(frame->bytes + LINK_HEADER_BYTES + payload_offset);
}
