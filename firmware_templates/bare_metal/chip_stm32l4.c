/* STM32L4R5 (ST RM0432, chapters 3 for the flash, 5 for PWR, 6 for RCC): CORE_HZ from the internal oscillator in range 1 boost.
 * Where that does not come up everything stays on the 4 MHz of MSI. */
#include "board.h"
#include "stm32_gpio.h"

#define RCC_CR 0x40021000u
#define RCC_CFGR 0x40021008u
#define RCC_PLLCFGR 0x4002100Cu
#define RCC_AHB2ENR 0x4002104Cu
#define RCC_APB1ENR1 0x40021058u
#define FLASH_ACR 0x40022000u
#define PWR_CR2 0x40007004u
#define PWR_CR5 0x40007080u
#define GPIOA 0x48000000u

#define MSI_HZ 4000000u
#define PLL_INPUT_HZ 4000000u /* HSI / 4 */
_Static_assert(CORE_HZ > 100000000u && CORE_HZ <= 120000000u && CORE_HZ * 2u % PLL_INPUT_HZ == 0, "wait states are for these");

#define CR_MSION (1u << 0)
#define CR_MSIRDY (1u << 1)
#define CR_MSIRGSEL (1u << 3)
#define CR_MSIRANGE_MASK (15u << 4)
#define CR_MSIRANGE_4_MHZ (6u << 4)
#define CR_HSION (1u << 8)
#define CR_HSIRDY (1u << 10)
#define CR_PLLON (1u << 24)
#define CR_PLLRDY (1u << 25)
#define PLLCFGR_HSI 2u
#define PLLCFGR_CORE_HZ (PLLCFGR_HSI | (4u - 1u) << 4 | CORE_HZ * 2u / PLL_INPUT_HZ << 8 | 1u << 24 | 0u << 25) /* R: / 2 */
#define CFGR_SW_MASK 3u
#define CFGR_SW_MSI 0u
#define CFGR_SW_PLL 3u
#define CFGR_SWS_MASK (3u << 2)
#define CFGR_SWS_MSI (0u << 2)
#define CFGR_SWS_PLL (3u << 2)
#define CFGR_HPRE_MASK (15u << 4)
#define CFGR_HPRE_DIV2 (8u << 4)
#define ACR_MASK (7u << 8 | 15u)
#define ACR_LATENCY_MASK 15u
#define ACR_5_WAIT_STATES 5u /* 100 to 120 MHz in range 1 boost */
#define ACR_PREFETCH_AND_CACHES (7u << 8)
#define APB1ENR1_PWREN 28u
#define CR2_IOSV (1u << 9)
#define CR5_R1MODE (1u << 8) /* 0 is boost */
#define BOOST_TURNS 120u     /* a turn is a clock or more: 1 us */

static void stop_pll(void)
{
    change(RCC_CR, CR_MSION, CR_MSION);
    if (wait_for(RCC_CR, CR_MSIRDY, CR_MSIRDY)) /* while it starts, its range may not change (6.4.1) */
        change(RCC_CR, CR_MSIRANGE_MASK, CR_MSIRGSEL | CR_MSIRANGE_4_MHZ);
    change(RCC_CFGR, CFGR_SW_MASK, CFGR_SW_MSI);
    wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_MSI);
    change(RCC_CR, CR_PLLON, 0);
    wait_for(RCC_CR, CR_PLLRDY, 0);
    REGISTER(RCC_CFGR) = 0;
}

static bool start_pll(void)
{
    change(RCC_CR, CR_HSION, CR_HSION);
    if (!wait_for(RCC_CR, CR_HSIRDY, CR_HSIRDY))
        return false;
    REGISTER(RCC_PLLCFGR) = PLLCFGR_CORE_HZ;
    change(RCC_CR, CR_PLLON, CR_PLLON);
    if (!wait_for(RCC_CR, CR_PLLRDY, CR_PLLRDY))
        return false;
    /* Past 80 MHz in two steps, half speed for 1 us (5.1.8). */
    change(RCC_CFGR, CFGR_HPRE_MASK, CFGR_HPRE_DIV2);
    change(PWR_CR5, CR5_R1MODE, 0);
    change(FLASH_ACR, ACR_MASK, ACR_PREFETCH_AND_CACHES | ACR_5_WAIT_STATES);
    if (!wait_for(FLASH_ACR, ACR_LATENCY_MASK, ACR_5_WAIT_STATES))
        return false;
    change(RCC_CFGR, CFGR_SW_MASK, CFGR_SW_PLL);
    if (!wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_PLL))
        return false;
    for (uint32_t i = 0; i < BOOST_TURNS; ++i)
        (void)REGISTER(RCC_CFGR);
    change(RCC_CFGR, CFGR_HPRE_MASK, 0);
    return true;
}

struct clocks chip_init(void)
{
    const struct clocks full = {.core_hz = CORE_HZ, .uart_hz = CORE_HZ}; /* no APB divides */
    enable(RCC_APB1ENR1, APB1ENR1_PWREN);
    const struct clocks clocks = start_clocks(stop_pll, start_pll, full, MSI_HZ);
    change(PWR_CR2, CR2_IOSV, CR2_IOSV); /* the supply of PG2 to PG15 is there */
    connect_uart(GPIOA, RCC_AHB2ENR);
    return clocks;
}
