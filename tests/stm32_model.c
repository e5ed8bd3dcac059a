/* Registers as a table on the host: each access first reports what the one before has changed. Flags come some accesses late. */
#include <stdint.h>
#include <stdlib.h>

#include "chip.h"
#include "cortex_m.h"

#define SLOTS 256u
#define LATE 3u /* accesses */

static struct slot {
    uint32_t address, value, seen;
} slots[SLOTS];
static uint32_t used;
static struct flag {
    uint32_t address, mask, value;
    uint64_t due;
} flags[SLOTS];
static uint32_t waiting;
static void (*report)(uint32_t address, uint32_t old, uint32_t value);

uint64_t model_accesses;

static struct slot *find(uint32_t address)
{
    for (uint32_t i = 0; i < used; ++i)
        if (slots[i].address == address)
            return &slots[i];
    if (used == SLOTS)
        abort();
    slots[used] = (struct slot){.address = address};
    return &slots[used++];
}

void model_poke(uint32_t address, uint32_t value)
{
    struct slot *slot = find(address);
    slot->value = slot->seen = value;
}

uint32_t model_peek(uint32_t address)
{
    return find(address)->value;
}

void model_settle(void)
{
    for (uint32_t i = 0; i < used; ++i) {
        const struct slot now = slots[i];
        if (now.value != now.seen) {
            slots[i].seen = now.value;
            report(now.address, now.seen, now.value);
        }
    }
}

void model_later(uint32_t address, uint32_t mask, uint32_t value)
{
    uint32_t i = 0;
    while (i < waiting && (flags[i].address != address || flags[i].mask != mask))
        i++;
    if (i == SLOTS)
        abort();
    flags[i] = (struct flag){address, mask, value, model_accesses + LATE};
    waiting += i == waiting;
}

static void raise_flags(void)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < waiting; ++i)
        if (flags[i].due > model_accesses) {
            flags[left++] = flags[i];
        } else {
            struct slot *slot = find(flags[i].address);
            slot->value = (slot->value & ~flags[i].mask) | flags[i].value;
        }
    waiting = left;
}

volatile uint32_t *model_register(uint32_t address)
{
    model_settle();
    model_accesses++;
    raise_flags();
    model_settle();
    return &find(address)->value;
}

void model_start(void (*changed)(uint32_t, uint32_t, uint32_t))
{
    used = waiting = 0;
    model_accesses = 0;
    report = changed;
}

uint32_t model_received;

void serial_received(uint8_t byte)
{
    model_received = model_received << 8 | byte;
}
