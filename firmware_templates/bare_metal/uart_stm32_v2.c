/* The USART and LPUART of STM32 F7, H7, L4, G0, U5 (ST RM0385, RM0433, RM0432, RM0444, RM0456): flags are cleared in a register
 * of their own, bytes come and go by two. Its FIFO stays off. */
#include "board.h"
#include "chip.h"
#include "cortex_m.h"

#define CR1 REGISTER(UART_BASE + 0x00u)
#define BRR REGISTER(UART_BASE + 0x0Cu)
#define ISR REGISTER(UART_BASE + 0x1Cu)
#define ICR REGISTER(UART_BASE + 0x20u)
#define RDR REGISTER(UART_BASE + 0x24u)
#define TDR REGISTER(UART_BASE + 0x28u)

#define CR1_UE (1u << 0)
#define CR1_RE (1u << 2)
#define CR1_TE (1u << 3)
#define CR1_RXNEIE (1u << 5)
#define ISR_ORE (1u << 3)
#define ISR_RXNE (1u << 5)
#define ISR_TXE (1u << 7)
#define ICR_ORECF (1u << 3)

_Static_assert(UART_DIVIDER_UNIT == 1u || (uint64_t)CORE_HZ * UART_DIVIDER_UNIT / UART_BAUD < 1u << 20,
               "the divider of an LPUART has 20 bits");

/* The divider counts clocks in a USART, where UART_DIVIDER_UNIT is 1, and 256ths of one in an LPUART. */
void uart_init(uint32_t clock_hz, uint32_t baud)
{
    CR1 = 0; /* a boot ROM may have used it; the divider is locked while it runs */
    BRR = (uint32_t)(((uint64_t)clock_hz * UART_DIVIDER_UNIT + baud / 2u) / baud);
    CR1 = CR1_UE | CR1_TE | CR1_RE | CR1_RXNEIE;
}

void uart_send(uint8_t byte)
{
    for (uint32_t i = 0; i < WAIT_LIMIT && !(ISR & ISR_TXE); ++i) {
    }
    TDR = byte;
}

void uart_interrupt(void)
{
    const uint32_t flags = ISR;
    if (flags & ISR_ORE)
        ICR = ICR_ORECF; /* else it interrupts for ever; the frame's checksum tells of the loss */
    if (flags & ISR_RXNE)
        serial_received((uint8_t)RDR);
}
