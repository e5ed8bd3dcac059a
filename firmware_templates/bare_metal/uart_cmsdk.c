/* CMSDK APB UART (Arm DDI 0479). */
#include "board.h"
#include "chip.h"
#include "cortex_m.h"

#define DATA REGISTER(UART_BASE + 0x00u)
#define STATE REGISTER(UART_BASE + 0x04u)
#define CTRL REGISTER(UART_BASE + 0x08u)
#define INTCLEAR REGISTER(UART_BASE + 0x0Cu)
#define BAUDDIV REGISTER(UART_BASE + 0x10u)

#define STATE_TXFULL (1u << 0)
#define STATE_RXFULL (1u << 1)
#define CTRL_TXEN (1u << 0)
#define CTRL_RXEN (1u << 1)
#define CTRL_RXIRQ (1u << 3)
#define INT_RX (1u << 1)

void uart_init(uint32_t clock_hz, uint32_t baud)
{
    BAUDDIV = clock_hz / baud;
    CTRL = CTRL_TXEN | CTRL_RXEN | CTRL_RXIRQ;
}

void uart_send(uint8_t byte)
{
    for (uint32_t i = 0; i < WAIT_LIMIT && (STATE & STATE_TXFULL); ++i) {
    }
    DATA = byte;
}

void uart_interrupt(void)
{
    INTCLEAR = INT_RX;
    if (STATE & STATE_RXFULL)
        serial_received((uint8_t)DATA);
}
