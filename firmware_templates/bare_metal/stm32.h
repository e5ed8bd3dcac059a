/* What the families of STM32 share: bounded waits, changes of a field, the clocks of peripherals. */
#ifndef STM32_H
#define STM32_H

#include <stdbool.h>

#include "chip.h"
#include "cortex_m.h"

#define APB2_BASE 0x40010000u /* peripherals below it are on APB1: F1, F4, F7 */

static inline bool wait_for(uint32_t address, uint32_t mask, uint32_t value)
{
    for (uint32_t i = 0; i < WAIT_LIMIT; ++i)
        if ((REGISTER(address) & mask) == value)
            return true;
    return false;
}

/* `value` lies within `mask`. */
static inline void change(uint32_t address, uint32_t mask, uint32_t value)
{
    REGISTER(address) = (REGISTER(address) & ~mask) | value;
}

/* Lets a peripheral's clock run. It answers two bus clocks later: the read takes that long. */
static inline void enable(uint32_t address, uint32_t bit)
{
    change(address, 1u << bit, 1u << bit);
    (void)REGISTER(address);
}

/* Full speed, or what a reset gives. `stop` goes there: a boot ROM may have started a PLL, and one that runs cannot be set. */
static inline struct clocks start_clocks(void (*stop)(void), bool (*start)(void), struct clocks full, uint32_t reset_hz)
{
    const struct clocks slow = {.core_hz = reset_hz, .uart_hz = reset_hz};
    stop();
    if (start())
        return full;
    stop();
    return slow;
}

#endif
