/* What one run costs: time by SysTick, which counts core clocks on every Cortex-M, and stack by painting. */
#include "board.h"
#include "cortex_m.h"
#include "port.h"

#define SYSTICK_PERIOD (1u << 24)
#define PAINT 0x5AFE57ACu

extern uint32_t __stack_bottom__[], __stack_top__[];

static volatile uint32_t wraps;

void systick_handler(void)
{
    wraps = wraps + 1u;
}

static uint32_t *stack_pointer(void)
{
    uint32_t *pointer;
    __asm volatile("mov %0, sp" : "=r"(pointer));
    return pointer;
}

uint32_t port_stack_bytes(void)
{
    return (uint32_t)((uintptr_t)__stack_top__ - (uintptr_t)__stack_bottom__);
}

void measure_begin(void)
{
    irq_disable(UART_IRQ);
    /* volatile: a call to memset would paint over its own frame */
    for (volatile uint32_t *word = __stack_bottom__; word < stack_pointer(); ++word)
        *word = PAINT;
    wraps = 0;
    SYST_RVR = SYSTICK_PERIOD - 1u;
    SYST_CVR = 0; /* the next clock reloads: each run sees the overflows at the same places */
    __asm volatile("" ::: "memory");
    SYST_CSR = 7; /* core clock, interrupt, on */
}

struct measurement measure_end(void)
{
    interrupts_off();
    uint32_t left = SYST_CVR;
    uint32_t overflows = wraps;
    if (SCB_ICSR & ICSR_PENDSTSET) { /* it wrapped before or just after the first look */
        left = SYST_CVR;
        overflows++;
    }
    __asm volatile("" ::: "memory");
    SYST_CSR = 0;
    interrupts_on();

    const uint32_t *word = __stack_bottom__;
    while (word < __stack_top__ && *word == PAINT)
        word++;
    irq_enable(UART_IRQ);
    const struct measurement cost = {
        .ticks = (uint64_t)overflows * SYSTICK_PERIOD + (SYSTICK_PERIOD - 1u - left),
        .stack_bytes = (uint32_t)((uintptr_t)__stack_top__ - (uintptr_t)word),
    };
    return cost;
}
