/* GPIO of every STM32 but F1 (e.g. ST RM0390, chapter 7): one block of registers a port, 0x400 apart. */
#ifndef STM32_GPIO_H
#define STM32_GPIO_H

#include "board.h"
#include "stm32.h"

#define GPIO_PORT_BYTES 0x400u
#define GPIO_MODER 0x00u
#define GPIO_PUPDR 0x0Cu
#define GPIO_AFR(pin) (0x20u + 4u * ((pin) / 8u))

#define MODER_ALTERNATE 2u
#define PUPDR_UP 1u

/* Gives `pin` of the port at address `port` to the peripheral `function`, AF0 to AF15, and pulls it up: an unconnected line
 * is idle. */
static inline void pin_to_peripheral(uint32_t port, uint32_t pin, uint32_t function)
{
    const uint32_t shift = 4u * (pin % 8u);
    change(port + GPIO_AFR(pin), 15u << shift, function << shift);
    change(port + GPIO_PUPDR, 3u << 2u * pin, PUPDR_UP << 2u * pin);
    change(port + GPIO_MODER, 3u << 2u * pin, MODER_ALTERNATE << 2u * pin);
}

/* The board's UART and its pins; `gpioa` is port A's address, bit 0 of `gpio_enable` its clock. */
static inline void connect_uart(uint32_t gpioa, uint32_t gpio_enable)
{
    const uint32_t port = gpioa + UART_PORT * GPIO_PORT_BYTES;
    enable(gpio_enable, UART_PORT);
    enable(UART_ENABLE, UART_ENABLE_BIT);
    pin_to_peripheral(port, UART_TX, UART_AF);
    pin_to_peripheral(port, UART_RX, UART_AF);
}

#endif
