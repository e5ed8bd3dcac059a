/* What one run costs: time by Zephyr's cycle counter, stack by painting the main thread's. */
#include <zephyr/kernel.h>

#include "platform.h"
#include "port.h"

#define PAINT 0x5AFE57ACu

#ifdef CONFIG_TIMER_HAS_64BIT_CYCLE_COUNTER
typedef uint64_t cycles;
#define cycles_now() k_cycle_get_64()
#else
typedef uint32_t cycles;
#define cycles_now() k_cycle_get_32()
#endif

static cycles start;

static uintptr_t stack_bottom(void)
{
    return k_current_get()->stack_info.start;
}

static uintptr_t stack_top(void)
{
    return stack_bottom() + k_current_get()->stack_info.size;
}

static uintptr_t stack_pointer(void)
{
    uintptr_t pointer;
    __asm volatile("mov %0, sp" : "=r"(pointer));
    return pointer;
}

uint32_t port_core_hz(void)
{
    return sys_clock_hw_cycles_per_sec();
}

uint32_t port_stack_bytes(void)
{
    return (uint32_t)(stack_top() - stack_bottom());
}

void measure_begin(void)
{
    serial_pause();
    volatile uint32_t *const bottom = (volatile uint32_t *)stack_bottom(); /* volatile: a memset would paint its frame */
    for (volatile uint32_t *word = bottom; (uintptr_t)word < stack_pointer(); ++word)
        *word = PAINT;
    start = cycles_now();
    __asm volatile("" ::: "memory");
}

struct measurement measure_end(void)
{
    __asm volatile("" ::: "memory");
    const cycles ticks = cycles_now() - start;
    const uint32_t *word = (const uint32_t *)stack_bottom();
    while ((uintptr_t)word < stack_top() && *word == PAINT)
        word++;
    serial_resume();
    return (struct measurement){.ticks = ticks, .stack_bytes = (uint32_t)(stack_top() - (uintptr_t)word)};
}
