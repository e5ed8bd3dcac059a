/* Vector table, C start-up and last words, for any Cortex-M. */
#include <string.h>

#include "app.h"
#include "board.h"
#include "chip.h"
#include "cortex_m.h"
#include "link.h"
#include "port.h"

/* Places that the linker script names. */
extern uint8_t __image_start__[], __image_end__[], __build_id__[], __stack_top__[];
extern uint8_t __data_load__[], __data_start__[], __data_end__[], __zero_start__[], __zero_end__[];
extern uint32_t __stack_bottom__[];

void reset_handler(void);
void fault_handler(void);
void fault_report(const uint32_t *frame) __attribute__((noreturn));
void systick_handler(void);

/* Interrupts that nobody enables have no entry. */
__attribute__((section(".vectors"), used)) static const uintptr_t vectors[16u + UART_IRQ + 1u] = {
    [0] = (uintptr_t)__stack_top__,
    [1] = (uintptr_t)reset_handler,
    [2] = (uintptr_t)fault_handler, /* NMI */
    [3] = (uintptr_t)fault_handler, /* HardFault; the finer faults below stay disabled and end here as well */
    [4] = (uintptr_t)fault_handler, /* MemManage */
    [5] = (uintptr_t)fault_handler, /* BusFault */
    [6] = (uintptr_t)fault_handler, /* UsageFault */
    [7] = (uintptr_t)fault_handler, /* SecureFault, ARMv8-M */
    [11] = (uintptr_t)fault_handler, /* SVCall */
    [12] = (uintptr_t)fault_handler, /* DebugMonitor */
    [14] = (uintptr_t)fault_handler, /* PendSV */
    [15] = (uintptr_t)systick_handler,
    [16u + UART_IRQ] = (uintptr_t)uart_interrupt,
};

static struct clocks clocks;

const uint8_t *port_image_start(void)
{
    return __image_start__;
}

uint32_t port_image_bytes(void)
{
    return (uint32_t)(__image_end__ - __image_start__);
}

const uint8_t *port_build_id(void)
{
    return __build_id__ + 16; /* behind the note's header: three words and "GNU" */
}

uint32_t port_core_hz(void)
{
    return clocks.core_hz;
}

void reset_handler(void)
{
#ifdef __ARM_FP
    SCB_CPACR = SCB_CPACR | 0xFu << 20; /* the FPU, before compiled code may touch it */
    barrier();
#endif
    SCB_VTOR = (uint32_t)(uintptr_t)vectors; /* ignored where there is none (Cortex-M0) */
    memcpy(__data_start__, __data_load__, (size_t)(__data_end__ - __data_start__));
    memset(__zero_start__, 0, (size_t)(__zero_end__ - __zero_start__));
    clocks = chip_init();
    serial_init(clocks.uart_hz);
    app_run();
}

/* The stack grows down towards the start of RAM, so that one that overflows faults at once: then it is given up. */
__attribute__((naked)) void fault_handler(void)
{
    __asm volatile("mov r0, sp\n"
                   "ldr r1, =__stack_bottom__ + 1024\n" /* what fault_report may need */
                   "cmp r0, r1\n"
                   "bhs 1f\n"
                   "ldr r1, =__stack_top__\n"
                   "mov sp, r1\n"
                   "1: b fault_report\n");
}

void fault_report(const uint32_t *frame)
{
    static struct link_frame report;
    uint32_t exception;
    __asm volatile("mrs %0, ipsr" : "=r"(exception));
    const int whole = frame >= __stack_bottom__;
    link_begin(&report, LINK_FAULT, 0);
    link_put_u32(&report, exception);
    link_put_u32(&report, whole ? frame[6] : 0); /* pc */
    link_put_u32(&report, whole ? frame[5] : 0); /* lr */
    link_put_u32(&report, SCB_CFSR);
    link_seal(&report);
    link_send(&report, port_write);
    SCB_AIRCR = AIRCR_SYSRESETREQ;
    for (;;) {
    }
}
