/* STM32F745/746 (ST RM0385, chapters 3 for the flash, 4 for PWR, 5 for RCC), with the core's caches. Where full speed does not come up
 * everything stays on the 16 MHz of HSI. */
#include "board.h"

#define PLL_Q 9u
#define OVERDRIVE_HZ 180000000u
#define WAIT_STATES 7u /* 210 to 216 MHz at 2.7 V and above */
#define FLASH_ACR_ON (1u << 8) /* prefetch; its accelerator is for the ITCM bus, which nothing here uses */
_Static_assert(CORE_HZ > 210000000u && CORE_HZ <= 216000000u && CORE_HZ % 1000000u == 0, "wait states are for these");

#include "cortex_m7.h"
#include "stm32_rcc_f4.h"

struct clocks chip_init(void)
{
    const struct clocks clocks = start_f4();
    caches_on();
    return clocks;
}
