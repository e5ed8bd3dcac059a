/* Nordic nRF51 (nRF51 Series Reference Manual 3.0): one fixed clock; TXD and RXD as on a micro:bit, P0.24 and P0.25. */
#include "board.h"
#include "chip.h"
#include "cortex_m.h"

#define UART_PSELTXD REGISTER(UART_BASE + 0x50Cu)
#define UART_PSELRXD REGISTER(UART_BASE + 0x514u)

struct clocks chip_init(void)
{
    const struct clocks fixed = {.core_hz = CORE_HZ, .uart_hz = CORE_HZ};
    UART_PSELTXD = 24;
    UART_PSELRXD = 25;
    return fixed;
}
