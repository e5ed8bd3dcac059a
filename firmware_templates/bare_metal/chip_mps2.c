/* Arm MPS2 and MPS2+ FPGA images AN385, AN386, AN500 (Arm DAI 0385, 0386, 0500): one fixed clock, nothing to set up. */
#include "board.h"
#include "chip.h"

struct clocks chip_init(void)
{
    const struct clocks fixed = {.core_hz = CORE_HZ, .uart_hz = CORE_HZ};
    return fixed;
}
