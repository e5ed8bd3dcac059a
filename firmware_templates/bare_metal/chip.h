/* What each chip_*.c and uart_*.c provides; their registers' addresses come from the target's TOML through board.h. */
#ifndef CHIP_H
#define CHIP_H

#include <stdint.h>

struct clocks {
    uint32_t core_hz;
    uint32_t uart_hz; /* what the UART's baud rate divider counts */
};

/* Starts the clocks, and the UART's clock and pins. Never waits without a bound. */
struct clocks chip_init(void);

void uart_init(uint32_t clock_hz, uint32_t baud);
void uart_send(uint8_t byte);
void uart_interrupt(void); /* hands received bytes to serial_received */

void serial_init(uint32_t uart_hz);
void serial_received(uint8_t byte);

/* Iterations that a wait for hardware may take, 5 clocks or more each: 1 ms at 480 MHz, longer than a byte at 19,200 baud;
 * at the clock of a reset, where oscillators and PLLs are waited for, 8 ms and more. */
#define WAIT_LIMIT 100000u

#endif
