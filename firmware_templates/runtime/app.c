#include "app.h"

#include <string.h>

#include "link.h"
#include "model.h"
#include "port.h"

static struct {
    struct link_parser parser;
    struct link_frame reply;
    uint32_t served;        /* checksum of the request that `reply` answers */
    uint32_t constants_crc; /* of the network's constants in flash, as last computed; wrong once, wrong until a reset */
} app;

static bool constants_intact(void)
{
    return app.constants_crc == MODEL_CONSTANT_CRC32;
}

static void check_constants(void)
{
    app.constants_crc = link_crc32(MODEL_CONSTANTS, MODEL_CONSTANT_BYTES);
}

static uint8_t hex_digit(char digit)
{
    return (uint8_t)(digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10);
}

static void hello(void)
{
    static const char hash[] = MODEL_HASH;
    link_put_u32(&app.reply, LINK_PROTOCOL);
    for (size_t i = 0; i + 1 < sizeof hash; i += 2) {
        const uint8_t byte = (uint8_t)(hex_digit(hash[i]) << 4 | hex_digit(hash[i + 1]));
        link_put(&app.reply, &byte, 1);
    }
    link_put(&app.reply, port_build_id(), BUILD_ID_BYTES);
    link_put_u32(&app.reply, link_crc32(port_image_start(), port_image_bytes())); /* anew each time: flash may rot */
    link_put_u32(&app.reply, port_image_bytes());
    link_put_u32(&app.reply, MODEL_INPUT_BYTES);
    link_put_u32(&app.reply, MODEL_OUTPUT_BYTES);
    link_put_u32(&app.reply, MODEL_ARENA_BYTES);
    link_put_u32(&app.reply, port_stack_bytes());
    link_put_u32(&app.reply, port_core_hz());
    if (constants_intact())
        check_constants();
    link_put_u32(&app.reply, app.constants_crc);
    link_put_u32(&app.reply, MODEL_CONSTANT_CRC32);
}

static bool in_range(uint32_t offset, size_t count, size_t size)
{
    return offset <= size && count <= size - offset;
}

/* The functions below return 0 or an enum link_error, and append what the reply carries. */

static uint8_t write_input(const struct link_frame *request)
{
    const uint32_t offset = link_get_u32(request, 0);
    const size_t count = link_payload_bytes(request) - 4u;
    if (!in_range(offset, count, MODEL_INPUT_BYTES))
        return LINK_ERROR_RANGE;
    memcpy(MODEL_INPUT + offset, request->bytes + LINK_HEADER_BYTES + 4u, count);
    return 0;
}

/* Input and output lie in the arena: a run may spoil its input, and the host writes all of it before each. */
static uint8_t run(const struct link_frame *request)
{
    if (!constants_intact())
        return LINK_ERROR_WEIGHTS;
    if (link_crc32((const uint8_t *)MODEL_INPUT, MODEL_INPUT_BYTES) != link_get_u32(request, 4))
        return LINK_ERROR_INPUT;
    measure_begin();
    model_run(MODEL_INPUT, MODEL_OUTPUT);
    const struct measurement cost = measure_end();
    link_put_u32(&app.reply, link_get_u32(request, 0)); /* the case, back as it came */
    link_put_u32(&app.reply, link_crc32((const uint8_t *)MODEL_OUTPUT, MODEL_OUTPUT_BYTES));
    link_put_u32(&app.reply, (uint32_t)cost.ticks);
    link_put_u32(&app.reply, (uint32_t)(cost.ticks >> 32));
    link_put_u32(&app.reply, cost.stack_bytes);
    return 0;
}

static uint8_t read_output(const struct link_frame *request)
{
    const uint32_t offset = link_get_u32(request, 0);
    const uint32_t count = link_get_u32(request, 4);
    if (count > LINK_DATA_MAX || !in_range(offset, count, MODEL_OUTPUT_BYTES))
        return LINK_ERROR_RANGE;
    link_put(&app.reply, MODEL_OUTPUT + offset, count);
    return 0;
}

static uint8_t serve(const struct link_frame *request)
{
    const size_t payload = link_payload_bytes(request);
    switch (link_kind(request)) {
    case LINK_HELLO:
        hello();
        return 0;
    case LINK_WRITE:
        return payload < 4u ? LINK_ERROR_LENGTH : write_input(request);
    case LINK_RUN:
        return payload != 8u ? LINK_ERROR_LENGTH : run(request);
    case LINK_READ:
        return payload != 8u ? LINK_ERROR_LENGTH : read_output(request);
    default:
        return LINK_ERROR_KIND;
    }
}

void app_feed(uint8_t byte)
{
    if (!link_feed(&app.parser, byte))
        return;
    const struct link_frame *request = &app.parser.frame;
    const uint32_t checksum = link_get_u32(request, link_payload_bytes(request));
    /* The same request again means that its reply was lost: say it again, do not run again. */
    if (app.reply.length == 0 || checksum != app.served) {
        const uint16_t sequence = link_sequence(request);
        link_begin(&app.reply, (uint8_t)(link_kind(request) | LINK_REPLY), sequence);
        const uint8_t error = serve(request);
        if (error != 0) {
            link_begin(&app.reply, LINK_ERROR, sequence);
            link_put(&app.reply, &error, 1);
        }
        link_seal(&app.reply);
        app.served = checksum;
    }
    link_send(&app.reply, port_write);
}

void app_boot(void)
{
    check_constants();
}

void app_run(void)
{
    app_boot();
    for (;;)
        app_feed(port_read());
}
