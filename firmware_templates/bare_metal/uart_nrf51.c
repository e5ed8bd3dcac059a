/* The UART of Nordic nRF51 (nRF51 Series Reference Manual 3.0, chapter 29): tasks are started, events happen. */
#include "board.h"
#include "chip.h"
#include "cortex_m.h"

#define STARTRX REGISTER(UART_BASE + 0x000u)
#define STARTTX REGISTER(UART_BASE + 0x008u)
#define RXDRDY REGISTER(UART_BASE + 0x108u)
#define TXDRDY REGISTER(UART_BASE + 0x11Cu)
#define INTENSET REGISTER(UART_BASE + 0x304u)
#define ENABLE REGISTER(UART_BASE + 0x500u)
#define RXD REGISTER(UART_BASE + 0x518u)
#define TXD REGISTER(UART_BASE + 0x51Cu)
#define BAUDRATE REGISTER(UART_BASE + 0x524u)

#define INT_RXDRDY (1u << 2)
#define ENABLE_UART 4u

void uart_init(uint32_t clock_hz, uint32_t baud)
{
    BAUDRATE = (uint32_t)(((uint64_t)baud << 32) / clock_hz + 0x800u) & 0xFFFFF000u;
    ENABLE = ENABLE_UART;
    INTENSET = INT_RXDRDY;
    STARTRX = 1;
    STARTTX = 1;
}

void uart_send(uint8_t byte)
{
    TXDRDY = 0;
    TXD = byte;
    for (uint32_t i = 0; i < WAIT_LIMIT && !TXDRDY; ++i) {
    }
}

void uart_interrupt(void)
{
    RXDRDY = 0; /* before the byte is taken: the next one may be there at once */
    serial_received((uint8_t)RXD);
}
