/* What docs/link.md says, whole frames at a time, for fuzz_link.c; shares no code with link.c and app.c. */
#ifndef LINK_TWIN_H
#define LINK_TWIN_H

#include "host_device.c" /* the device: app.c and a library of tests/dummy_library.py */

#include <stdio.h>

#define LINE_MAX 528u /* the longest frame on the line, with its delimiters */
#define BODY_MAX 600u /* of a frame that is to be refused */
#define CHECK(condition) ((condition) ? (void)0 : fail(#condition))

static struct {
    uint64_t scripts, bytes, noise, frames, refusals[LINK_ERROR_WEIGHTS + 1], repeats, runs;
} seen;

__attribute__((noreturn)) static void fail(const char *what)
{
    fprintf(stderr, "fuzz_link: does not hold: %s\n", what);
    abort();
}

struct bytes {
    uint8_t at[BODY_MAX];
    size_t count;
};

static uint32_t crc_bitwise(const uint8_t *bytes, size_t count)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < 8 * count; ++i)
        crc = crc >> 1 ^ (((crc ^ bytes[i / 8] >> i % 8) & 1u) != 0 ? 0xEDB88320u : 0);
    return ~crc;
}

static void add(struct bytes *to, const void *bytes, size_t count)
{
    CHECK(count <= sizeof to->at - to->count);
    memcpy(to->at + to->count, bytes, count);
    to->count += count;
}

static void add_number(struct bytes *to, uint64_t value, size_t width)
{
    for (size_t i = 0; i < width; ++i)
        add(to, &(uint8_t){(uint8_t)(value >> 8 * i)}, 1);
}

static uint32_t number(const uint8_t *bytes)
{
    return bytes[0] + 256u * bytes[1] + 65536u * bytes[2] + 16777216u * bytes[3];
}

static void seal(struct bytes *body)
{
    add_number(body, crc_bitwise(body->at, body->count), 4);
}

/* A frame as it goes over the line. */
static struct bytes on_the_line(const struct bytes *frame)
{
    struct bytes line = {{0}, 2};
    size_t code = 1;
    for (size_t i = 0; i < frame->count; ++i) {
        if (line.count - code == 255u) { /* 254 bytes and no zero */
            line.at[code] = 0xFF;
            code = line.count++;
        }
        if (frame->at[i] == 0) {
            line.at[code] = (uint8_t)(line.count - code);
            code = line.count++;
        } else {
            line.at[line.count++] = frame->at[i];
        }
    }
    line.at[code] = (uint8_t)(line.count - code);
    add_number(&line, 0, 1);
    return line;
}

/* What lay between two delimiters, decoded; a count of 0 where it is no frame for the device. */
static struct bytes frame_in(const uint8_t *encoded, size_t count)
{
    struct bytes frame = {{0}, 0};
    for (size_t i = 0; i < count;) {
        const size_t block = encoded[i++] - 1u;
        if (block > count - i || frame.count + block + 1u > sizeof frame.at)
            return (struct bytes){{0}, 0};
        add(&frame, encoded + i, block);
        i += block;
        if (block < 254u && i < count)
            add_number(&frame, 0, 1);
    }
    if (frame.count < 7u || frame.count > 523u ||
        crc_bitwise(frame.at, frame.count - 4u) != number(frame.at + frame.count - 4u))
        frame.count = 0;
    return frame;
}

static struct {
    uint8_t arena[MODEL_ARENA_BYTES];
    struct bytes request, reply; /* the last ones */
    uint8_t line[4 * LINE_MAX];  /* since the last delimiter */
    size_t arrived;
} twin;

static void say_hello(struct bytes *reply)
{
    add_number(reply, 2, 4);
    for (size_t i = 0; i < 32; ++i) {
        unsigned digits = 0;
        CHECK(sscanf(&MODEL_HASH[2 * i], "%2x", &digits) == 1);
        add_number(reply, digits, 1);
    }
    add(reply, image, 20);
    const uint32_t numbers[] = {
        crc_bitwise(image, sizeof image), sizeof image, MODEL_INPUT_BYTES, MODEL_OUTPUT_BYTES, MODEL_ARENA_BYTES, 4096,
        16000000, MODEL_CONSTANT_CRC32, MODEL_CONSTANT_CRC32,
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; ++i)
        add_number(reply, numbers[i], 4);
}

/* The reply's payload; or an error's code. */
static uint8_t answer(const struct bytes *request, struct bytes *reply)
{
    const uint8_t *const payload = request->at + 3;
    const size_t count = request->count - 7u;
    switch (request->at[0]) {
    case 1:
        say_hello(reply);
        return 0;
    case 2:
        if (count < 4)
            return 2;
        if ((uint64_t)number(payload) + count - 4u > MODEL_INPUT_BYTES)
            return 3;
        memcpy(twin.arena + number(payload), payload + 4, count - 4u);
        return 0;
    case 3:
        if (count != 8)
            return 2;
        if (crc_bitwise(twin.arena, MODEL_INPUT_BYTES) != number(payload + 4))
            return 4;
        model_run((const int8_t *)twin.arena, (int8_t *)twin.arena);
        seen.runs++;
        add(reply, payload, 4);
        add_number(reply, crc_bitwise(twin.arena, MODEL_OUTPUT_BYTES), 4);
        add_number(reply, 7000, 8);
        add_number(reply, 100, 4);
        return 0;
    case 4:
        if (count != 8)
            return 2;
        if (number(payload + 4) > 512u || (uint64_t)number(payload) + number(payload + 4) > MODEL_OUTPUT_BYTES)
            return 3;
        add(reply, twin.arena + number(payload), number(payload + 4));
        return 0;
    default:
        return 1;
    }
}

static void serve_twin(const struct bytes *request)
{
    seen.frames++;
    if (request->count == twin.request.count && memcmp(request->at, twin.request.at, request->count) == 0) {
        seen.repeats++;
        return;
    }
    struct bytes reply = {{(uint8_t)(request->at[0] | 0x80u), request->at[1], request->at[2]}, 3};
    const uint8_t error = answer(request, &reply);
    if (error != 0) {
        reply.count = 3;
        reply.at[0] = 0xFF;
        add_number(&reply, error, 1);
        seen.refusals[error]++;
    }
    seal(&reply);
    twin.request = *request;
    twin.reply = on_the_line(&reply);
}

#endif
