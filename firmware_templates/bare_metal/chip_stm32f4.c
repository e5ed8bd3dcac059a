/* STM32F405/407 (ST RM0090, chapters 3 for the flash, 5 for PWR, 7 for RCC) and F446 (RM0390: 3, 5, 6). Where full speed does not come
 * up (QEMU models no RCC) everything stays on the 16 MHz of HSI. */
#include "board.h"

#define PLL_Q 8u
#define OVERDRIVE_HZ 168000000u /* the F446's limit without it; the others have none */
#define WAIT_STATES 5u          /* 150 to 180 MHz at 2.7 V and above */
#define FLASH_ACR_ON (7u << 8)  /* prefetch, both caches */
_Static_assert(CORE_HZ > 150000000u && CORE_HZ <= 180000000u && CORE_HZ % 1000000u == 0, "wait states are for these");

#include "stm32_rcc_f4.h"

struct clocks chip_init(void)
{
    return start_f4();
}
