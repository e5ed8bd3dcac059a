/* The firmware's own app.c and link.c on this machine, for tests/host_device.py: bytes in, bytes out, no time passes. */
#include "app.c"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

void device_reset(uint8_t garbage);
size_t device_feed(const uint8_t *bytes, size_t count, uint8_t *sent, size_t room);
uint32_t device_runs(void);
bool device_flip(size_t offset, uint8_t bits);

static const uint8_t image[300] = {1, 2, 3};
static uint32_t runs;
static uint8_t *out;
static size_t out_left;

const uint8_t *port_image_start(void)
{
    return image;
}

uint32_t port_image_bytes(void)
{
    return sizeof image;
}

const uint8_t *port_build_id(void)
{
    return image;
}

uint32_t port_core_hz(void)
{
    return 16000000;
}

uint32_t port_stack_bytes(void)
{
    return 4096;
}

uint8_t port_read(void)
{
    abort(); /* app_run's alone */
}

void port_write(const uint8_t *bytes, size_t count)
{
    if (count > out_left)
        abort();
    memcpy(out, bytes, count);
    out += count;
    out_left -= count;
}

void measure_begin(void)
{
    runs++;
}

struct measurement measure_end(void)
{
    const struct measurement cost = {.ticks = 7000, .stack_bytes = 100};
    return cost;
}

/* As after start-up: variables are zero, the arena holds anything. */
void device_reset(uint8_t garbage)
{
    memset(&app, 0, sizeof app);
    memset(model_arena, garbage, MODEL_ARENA_BYTES);
    app_boot();
}

/* Flash that has changed: flips bits of a byte of the network's constants. */
bool device_flip(size_t offset, uint8_t bits)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), place = (uintptr_t)MODEL_CONSTANTS + offset;
    if (mprotect((void *)(place & ~(page - 1)), page, PROT_READ | PROT_WRITE) != 0)
        return false;
    *(uint8_t *)place ^= bits;
    return true;
}

/* How many bytes the firmware sent. */
size_t device_feed(const uint8_t *bytes, size_t count, uint8_t *sent, size_t room)
{
    out = sent;
    out_left = room;
    for (size_t i = 0; i < count; ++i)
        app_feed(bytes[i]);
    return room - out_left;
}

uint32_t device_runs(void)
{
    return runs;
}
