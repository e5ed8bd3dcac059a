/* STM32G071 (ST RM0444, chapters 3 for the flash, 4 for PWR, 5 for RCC): CORE_HZ from the internal oscillator. Where that does not come
 * up everything stays on the 16 MHz of HSI. */
#include "board.h"
#include "stm32_gpio.h"

#define RCC_CR 0x40021000u
#define RCC_CFGR 0x40021008u
#define RCC_PLLCFGR 0x4002100Cu
#define RCC_IOPENR 0x40021034u
#define FLASH_ACR 0x40022000u
#define GPIOA 0x50000000u

#define HSI_HZ 16000000u
_Static_assert(CORE_HZ > 48000000u && CORE_HZ <= 64000000u && CORE_HZ * 2u % HSI_HZ == 0, "wait states are for these");

#define CR_HSION (1u << 8)
#define CR_HSIDIV_MASK (7u << 11)
#define CR_PLLON (1u << 24)
#define CR_PLLRDY (1u << 25)
#define PLLCFGR_HSI 2u
#define PLLCFGR_CORE_HZ (PLLCFGR_HSI | 0u << 4 | CORE_HZ * 2u / HSI_HZ << 8 | 1u << 28 | 1u << 29) /* M: / 1, R: / 2 */
#define CFGR_SW_PLL 2u
#define CFGR_SWS_MASK (7u << 3)
#define CFGR_SWS_HSI (0u << 3)
#define CFGR_SWS_PLL (2u << 3)
#define ACR_MASK (3u << 8 | 7u)
#define ACR_LATENCY_MASK 7u
#define ACR_2_WAIT_STATES 2u /* 48 to 64 MHz in range 1, a reset's (3.3.4) */
#define ACR_PREFETCH_AND_CACHE (3u << 8)

static void stop_pll(void)
{
    change(RCC_CR, CR_HSION | CR_HSIDIV_MASK, CR_HSION);
    REGISTER(RCC_CFGR) = 0;
    wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_HSI);
    change(RCC_CR, CR_PLLON, 0);
    wait_for(RCC_CR, CR_PLLRDY, 0);
}

static bool start_pll(void)
{
    REGISTER(RCC_PLLCFGR) = PLLCFGR_CORE_HZ;
    change(RCC_CR, CR_PLLON, CR_PLLON);
    if (!wait_for(RCC_CR, CR_PLLRDY, CR_PLLRDY))
        return false;
    change(FLASH_ACR, ACR_MASK, ACR_PREFETCH_AND_CACHE | ACR_2_WAIT_STATES);
    if (!wait_for(FLASH_ACR, ACR_LATENCY_MASK, ACR_2_WAIT_STATES))
        return false;
    REGISTER(RCC_CFGR) = CFGR_SW_PLL;
    return wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_PLL);
}

struct clocks chip_init(void)
{
    const struct clocks full = {.core_hz = CORE_HZ, .uart_hz = CORE_HZ}; /* no APB divides */
    const struct clocks clocks = start_clocks(stop_pll, start_pll, full, HSI_HZ);
    connect_uart(GPIOA, RCC_IOPENR);
    return clocks;
}
