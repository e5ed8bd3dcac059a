/* The USART of STM32 F1, F2, F4 and L1 (ST RM0008, RM0033, RM0090, RM0038): one status register, one data register. */
#include "board.h"
#include "chip.h"
#include "cortex_m.h"

#define SR REGISTER(UART_BASE + 0x00u)
#define DR REGISTER(UART_BASE + 0x04u)
#define BRR REGISTER(UART_BASE + 0x08u)
#define CR1 REGISTER(UART_BASE + 0x0Cu)

#define SR_ORE (1u << 3)
#define SR_RXNE (1u << 5)
#define SR_TXE (1u << 7)
#define CR1_RE (1u << 2)
#define CR1_TE (1u << 3)
#define CR1_RXNEIE (1u << 5)
#define CR1_UE (1u << 13)

void uart_init(uint32_t clock_hz, uint32_t baud)
{
    BRR = (clock_hz + baud / 2u) / baud; /* oversampling by 16: the divider with four fractional bits */
    CR1 = CR1_UE | CR1_TE | CR1_RE | CR1_RXNEIE;
}

void uart_send(uint8_t byte)
{
    for (uint32_t i = 0; i < WAIT_LIMIT && !(SR & SR_TXE); ++i) {
    }
    DR = byte;
}

void uart_interrupt(void)
{
    if (SR & (SR_RXNE | SR_ORE)) /* reading DR after SR clears both; an overrun interrupts as well */
        serial_received((uint8_t)DR);
}
