/* Whatever the line carries, the device takes the frames and gives the answers that docs/link.md says, and writes nowhere
 * but in their buffers. An input is a script of what the line carries: see play().
 *
 * With clang: -fsanitize=fuzzer,address,undefined -DLIBFUZZER. Without: `fuzz_link FIRST COUNT SECONDS` plays the scripts of
 * the seeds from FIRST on, until there were COUNT or the time is over. tests/fuzz_link.py builds both. */
#include "link_twin.h"

#include <signal.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct {
    uint8_t before[64];
    struct link_parser parser;
    uint8_t after[64];
} alone; /* the parser without the rest */

/* The bytes that follow a frame's buffer and are nobody's. */
static uint8_t *gap(struct link_frame *frame)
{
    return frame->bytes + sizeof frame->bytes;
}
#define GAP (offsetof(struct link_frame, length) - LINK_FRAME_MAX)
_Static_assert(GAP > 0, "nothing lies between a frame's bytes and their count");

static struct link_frame *const frames[] = {&app.parser.frame, &app.reply, &alone.parser.frame};

static void boot(void)
{
    memset(&alone, 0xA5, sizeof alone);
    memset(&alone.parser, 0, sizeof alone.parser);
    memset(&twin, 0, sizeof twin);
    memset(twin.arena, 0x5A, sizeof twin.arena);
    device_reset(0x5A);
    for (size_t i = 0; i < sizeof frames / sizeof frames[0]; ++i)
        memset(gap(frames[i]), 0xA5, GAP);
}

static void check_memory(void)
{
    for (size_t i = 0; i < sizeof alone.before; ++i)
        CHECK(alone.before[i] == 0xA5 && alone.after[i] == 0xA5);
    for (size_t i = 0; i < sizeof frames / sizeof frames[0]; ++i) {
        CHECK(frames[i]->length <= LINK_FRAME_MAX);
        for (size_t j = 0; j < GAP; ++j)
            CHECK(gap(frames[i])[j] == 0xA5);
    }
    CHECK(memcmp(model_arena, twin.arena, sizeof twin.arena) == 0);
}

static void feed(uint8_t byte)
{
    static uint8_t sent[LINE_MAX];
    const bool taken = link_feed(&alone.parser, byte);
    const size_t count = device_feed(&byte, 1, sent, sizeof sent);
    seen.bytes++;
    if (byte != 0) {
        CHECK(!taken && count == 0);
        if (twin.arrived < sizeof twin.line)
            twin.line[twin.arrived++] = byte;
        return;
    }
    const struct bytes frame = frame_in(twin.line, twin.arrived);
    seen.noise += frame.count == 0 && twin.arrived > 0;
    twin.arrived = 0;
    CHECK(taken == (frame.count > 0));
    if (taken) {
        CHECK(alone.parser.frame.length == frame.count);
        CHECK(memcmp(alone.parser.frame.bytes, frame.at, frame.count) == 0);
        serve_twin(&frame);
        CHECK(count == twin.reply.count && memcmp(sent, twin.reply.at, count) == 0);
    } else {
        CHECK(count == 0);
    }
    check_memory();
}

static struct {
    const uint8_t *next, *end;
} script;

static uint8_t take(void)
{
    return script.next < script.end ? *script.next++ : 0;
}

static uint32_t take_below(uint32_t limit)
{
    const uint32_t low = take();
    return (low | (uint32_t)take() << 8) % limit;
}

/* Zeros, ones of a kind, any: runs of one byte meet COBS's blocks of 254. */
static void add_data(struct bytes *to, size_t count)
{
    const uint8_t first = take(), step = take() % 3u == 0 ? take() : 0;
    for (size_t i = 0; i < count; ++i)
        add_number(to, first + i * step, 1);
}

/* Mostly one that the device grants; offsets may be beyond any buffer. */
static struct bytes sensible_request(void)
{
    struct bytes frame = {{0}, 0};
    const uint8_t kind = (uint8_t)(1u + take() % 4u);
    const uint32_t away = take() < 16u ? 0xFFFFFF00u : 0;
    add_number(&frame, kind, 1);
    add_number(&frame, take(), 2);
    if (kind == 2) {
        add_number(&frame, take_below(MODEL_INPUT_BYTES + 4) | away, 4);
        add_data(&frame, take_below(513));
    } else if (kind == 3) {
        add_number(&frame, take(), 4);
        add_number(&frame, crc_bitwise(twin.arena, MODEL_INPUT_BYTES) ^ (take() < 16), 4);
    } else if (kind == 4) {
        add_number(&frame, take_below(MODEL_OUTPUT_BYTES + 4) | away, 4);
        add_number(&frame, take_below(516), 4);
    }
    seal(&frame);
    return frame;
}

/* Its checksum is right, little else: too short or too long, of no known kind, more behind its end. */
static struct bytes odd_frame(void)
{
    struct bytes frame = {{0}, 0};
    const uint8_t shape = take(), kind = take();
    add_number(&frame, shape % 2u != 0 ? kind : kind % 6u, 1);
    add_number(&frame, take(), 2);
    switch (shape / 2u % 4u) {
    case 0:
        add_data(&frame, take_below(540));
        break;
    case 1:
        add_data(&frame, take() % 12u);
        break;
    case 2:
        add_data(&frame, 516); /* the most that there may be */
        break;
    default:
        frame.count = take() % 4u;
    }
    seal(&frame);
    if (shape >= 192u)
        add_data(&frame, take() % 8u);
    return frame;
}

/* Until it ends: noise, as it stands in the script; an odd frame; a request that makes sense; the last frame again with a
 * byte changed (or not), and cut at either end. */
static void play(void)
{
    struct bytes line = {{0}, 0};
    size_t first = 0;
    while (script.next < script.end) {
        const uint8_t what = take();
        if (what % 4u == 0) {
            for (size_t left = take(); left > 0 && script.next < script.end; --left)
                feed(take());
            continue;
        }
        if (what % 4u < 3u) {
            const struct bytes frame = what % 4u == 1u ? odd_frame() : sensible_request();
            line = on_the_line(&frame);
            first = 0;
        } else if (line.count > 0) {
            line.at[take_below((uint32_t)line.count)] ^= take() % 3u == 0 ? take() : 0;
            first = take() < 32u ? take_below((uint32_t)line.count) : 0;
            line.count -= take() < 32u ? take_below((uint32_t)line.count) : 0;
        }
        for (size_t i = first; i < line.count; ++i)
            feed(line.at[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    boot();
    script.next = data;
    script.end = data + size;
    play();
    feed(0);
    seen.scripts++;
    return 0;
}

#ifndef LIBFUZZER

const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

static unsigned long long seed;

static void say_seed(int signal_number)
{
    fprintf(stderr, "fuzz_link: signal %d at seed %llu\n", signal_number, seed);
}

const char *__asan_default_options(void)
{
    return "abort_on_error=1";
}

const char *__ubsan_default_options(void)
{
    return "abort_on_error=1";
}

static uint32_t draw(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

int main(int count, char **arguments)
{
    static const uint8_t edges[] = {0, 1, 4, 7, 8, 253, 254, 255};
    static uint8_t data[1500];
    CHECK(count == 4);
    seed = strtoull(arguments[1], NULL, 10);
    const unsigned long long end = seed + strtoull(arguments[2], NULL, 10);
    const time_t until = time(NULL) + strtol(arguments[3], NULL, 10);
    signal(SIGABRT, say_seed);
    for (; seed < end && time(NULL) < until; ++seed) {
        uint64_t state = seed;
        draw(&state);
        const size_t size = 1u + draw(&state) % (draw(&state) % 4u == 0 ? sizeof data : 100u);
        for (size_t i = 0; i < size; ++i) {
            const uint32_t any = draw(&state);
            data[i] = any % 5u == 0 ? edges[any / 5u % sizeof edges] : (uint8_t)(any >> 8);
        }
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("scripts %llu bytes %llu noise %llu frames %llu repeats %llu runs %llu refusals", (unsigned long long)seen.scripts,
           (unsigned long long)seen.bytes, (unsigned long long)seen.noise, (unsigned long long)seen.frames,
           (unsigned long long)seen.repeats, (unsigned long long)seen.runs);
    for (size_t code = 1; code < sizeof seen.refusals / sizeof seen.refusals[0]; ++code)
        printf(" %llu", (unsigned long long)seen.refusals[code]);
    printf("\n");
    return 0;
}
#endif
