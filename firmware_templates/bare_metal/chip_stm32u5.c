/* STM32U575 (ST RM0456, chapters 7 for the flash, 8 for ICACHE, 10 for PWR, 11 for RCC) without TrustZone: CORE_HZ from the internal
 * oscillator in voltage range 1 with the booster. Where that does not come up everything stays on the 4 MHz of MSIS. */
#include "board.h"
#include "stm32_gpio.h"

#define RCC_CR 0x46020C00u
#define RCC_ICSCR1 0x46020C08u
#define RCC_CFGR1 0x46020C1Cu
#define RCC_PLL1CFGR 0x46020C28u
#define RCC_PLL1DIVR 0x46020C34u
#define RCC_AHB2ENR1 0x46020C8Cu
#define RCC_AHB3ENR 0x46020C94u
#define PWR_VOSR 0x4602080Cu
#define FLASH_ACR 0x40022000u
#define ICACHE_CR 0x40030400u
#define ICACHE_SR 0x40030404u
#define GPIOA 0x42020000u

#define MSI_HZ 4000000u
#define PLL_INPUT_HZ 4000000u /* HSI / 4 */
_Static_assert(CORE_HZ > 128000000u && CORE_HZ <= 160000000u && CORE_HZ * 2u % PLL_INPUT_HZ == 0, "wait states are for these");

#define CR_MSISON (1u << 0)
#define CR_MSISRDY (1u << 2)
#define CR_HSION (1u << 8)
#define CR_HSIRDY (1u << 10)
#define CR_PLL1ON (1u << 24)
#define CR_PLL1RDY (1u << 25)
#define ICSCR1_MSISRANGE_MASK (15u << 28)
#define ICSCR1_MSISRANGE_4_MHZ (4u << 28)
#define ICSCR1_MSIRGSEL (1u << 23)
/* HSI, input of 4 to 8 MHz, M = 4, the booster at HSI / 2 = 8 MHz, output R alone */
#define PLL1CFGR_CORE_HZ (2u | 0u << 2 | (4u - 1u) << 8 | 1u << 12 | 1u << 18)
#define PLL1DIVR_CORE_HZ ((CORE_HZ * 2u / PLL_INPUT_HZ - 1u) | (2u - 1u) << 9 | (2u - 1u) << 16 | (2u - 1u) << 24)
#define CFGR1_SW_MASK 3u
#define CFGR1_SW_PLL 3u
#define CFGR1_SWS_MASK (3u << 2)
#define CFGR1_SWS_MSIS (0u << 2)
#define CFGR1_SWS_PLL (3u << 2)
#define VOSR_VOS_MASK (3u << 16)
#define VOSR_RANGE_1 (3u << 16)
#define VOSR_VOSRDY (1u << 15)
#define VOSR_BOOSTEN (1u << 18)
#define VOSR_BOOSTRDY (1u << 14)
#define ACR_MASK (1u << 8 | 15u)
#define ACR_LATENCY_MASK 15u
#define ACR_4_WAIT_STATES 4u /* 128 to 160 MHz in range 1 */
#define ACR_PREFETCH (1u << 8)
#define AHB3ENR_PWREN 2u
#define ICACHE_CR_EN (1u << 0)
#define ICACHE_SR_BUSYF (1u << 0)

static void stop_pll(void)
{
    change(RCC_CR, CR_MSISON, CR_MSISON);
    if (wait_for(RCC_CR, CR_MSISRDY, CR_MSISRDY)) /* while it starts, its range may not change (11.8.2) */
        change(RCC_ICSCR1, ICSCR1_MSISRANGE_MASK, ICSCR1_MSIRGSEL | ICSCR1_MSISRANGE_4_MHZ);
    change(RCC_CFGR1, CFGR1_SW_MASK, 0);
    wait_for(RCC_CFGR1, CFGR1_SWS_MASK, CFGR1_SWS_MSIS);
    change(RCC_CR, CR_PLL1ON, 0);
    wait_for(RCC_CR, CR_PLL1RDY, 0);
    change(PWR_VOSR, VOSR_BOOSTEN, 0); /* its clock's divider may only change while it is off */
}

static bool start_pll(void)
{
    change(RCC_CR, CR_HSION, CR_HSION);
    if (!wait_for(RCC_CR, CR_HSIRDY, CR_HSIRDY))
        return false;
    change(PWR_VOSR, VOSR_VOS_MASK, VOSR_RANGE_1);
    if (!wait_for(PWR_VOSR, VOSR_VOSRDY, VOSR_VOSRDY))
        return false;
    REGISTER(RCC_PLL1CFGR) = PLL1CFGR_CORE_HZ;
    REGISTER(RCC_PLL1DIVR) = PLL1DIVR_CORE_HZ;
    change(PWR_VOSR, VOSR_BOOSTEN, VOSR_BOOSTEN);
    change(RCC_CR, CR_PLL1ON, CR_PLL1ON);
    if (!wait_for(RCC_CR, CR_PLL1RDY, CR_PLL1RDY))
        return false;
    if (!wait_for(PWR_VOSR, VOSR_BOOSTRDY, VOSR_BOOSTRDY)) /* above 55 MHz (10.5.4) */
        return false;
    change(FLASH_ACR, ACR_MASK, ACR_PREFETCH | ACR_4_WAIT_STATES);
    if (!wait_for(FLASH_ACR, ACR_LATENCY_MASK, ACR_4_WAIT_STATES))
        return false;
    change(RCC_CFGR1, CFGR1_SW_MASK, CFGR1_SW_PLL);
    return wait_for(RCC_CFGR1, CFGR1_SWS_MASK, CFGR1_SWS_PLL);
}

struct clocks chip_init(void)
{
    const struct clocks full = {.core_hz = CORE_HZ, .uart_hz = CORE_HZ}; /* no APB divides */
    enable(RCC_AHB3ENR, AHB3ENR_PWREN);
    const struct clocks clocks = start_clocks(stop_pll, start_pll, full, MSI_HZ);
    if (wait_for(ICACHE_SR, ICACHE_SR_BUSYF, 0)) /* it empties itself after a reset */
        change(ICACHE_CR, ICACHE_CR_EN, ICACHE_CR_EN);
    connect_uart(GPIOA, RCC_AHB2ENR1);
    return clocks;
}
