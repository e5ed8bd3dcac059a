/* STM32H743 (ST RM0433, chapters 4 for the flash, 6 for PWR, 8 for RCC; errata ES0392): from the internal oscillator CORE_HZ, or
 * 400 MHz on silicon before revision V, with the core's caches.
 * Where that does not come up everything stays on the 64 MHz of HSI. */
#include "board.h"
#include "cortex_m7.h"
#include "stm32_gpio.h"

#define RCC_CR 0x58024400u
#define RCC_CFGR 0x58024410u
#define RCC_D1CFGR 0x58024418u
#define RCC_D2CFGR 0x5802441Cu
#define RCC_D3CFGR 0x58024420u
#define RCC_PLLCKSELR 0x58024428u
#define RCC_PLLCFGR 0x5802442Cu
#define RCC_PLL1DIVR 0x58024430u
#define RCC_AHB4ENR 0x580244E0u
#define RCC_APB4ENR 0x580244F4u
#define PWR_CSR1 0x58024804u
#define PWR_CR3 0x5802480Cu
#define PWR_D3CR 0x58024818u
#define SYSCFG_PWRCR 0x5800042Cu
#define FLASH_ACR 0x52002000u
#define DBGMCU_IDC 0x5C001000u
#define GPIOA 0x58020000u
#define AXI_TARG7_FN_MOD 0x51008108u /* the interconnect's port to AXI SRAM */

#define HSI_HZ 64000000u
#define PLL_INPUT_HZ (HSI_HZ / 20u) /* 3.2 MHz */
#define OLD_HZ 400000000u
_Static_assert(CORE_HZ > 450000000u && CORE_HZ <= 480000000u && CORE_HZ * 2u % PLL_INPUT_HZ == 0, "wait states are for these");

#define CR_HSION (1u << 0)
#define CR_HSIDIV_MASK (3u << 3)
#define CR_PLL1ON (1u << 24)
#define CR_PLL1RDY (1u << 25)
#define PLLCKSELR_MASK (63u << 4 | 3u) /* of PLL1's divider and the source, 0: HSI */
#define PLLCKSELR_DIVM1 (20u << 4)
#define PLLCFGR_PLL1_MASK (7u << 16 | 15u)
#define PLLCFGR_PLL1 (1u << 16 | 1u << 2) /* output P alone; input of 2 to 4 MHz; wide VCO, no fraction */
#define PLL1DIVR(hz) (((hz) * 2u / PLL_INPUT_HZ - 1u) | (2u - 1u) << 9 | (2u - 1u) << 16 | (2u - 1u) << 24)
#define CFGR_SW_MASK 7u
#define CFGR_SW_PLL1 3u
#define CFGR_SWS_MASK (7u << 3)
#define CFGR_SWS_HSI (0u << 3)
#define CFGR_SWS_PLL1 (3u << 3)
#define D1CFGR_DIVIDERS (8u | 4u << 4)       /* AXI and AHB at half the core's clock, APB3 at half of that */
#define D2CFGR_DIVIDERS (4u << 4 | 4u << 8)  /* APB1, APB2 at half of AHB: at most 120 MHz */
#define D3CFGR_DIVIDERS (4u << 4)            /* APB4 as well */
#define ACR_MASK 0x3Fu
#define ACR_4_WAIT_STATES (4u | 2u << 4) /* AXI above 225 MHz in scale 0, and its WRHIGHFREQ */
#define CR3_MASK 7u
#define CR3_LDO (1u << 1 | 1u << 2) /* LDOEN, SCUEN; no BYPASS */
#define CSR1_ACTVOSRDY (1u << 13)
#define D3CR_VOS_MASK (3u << 14)
#define D3CR_VOS1 (3u << 14)
#define D3CR_VOSRDY (1u << 13)
#define APB4ENR_SYSCFGEN 1u
#define PWRCR_ODEN 1u
#define IDC_REVISION(value) ((value) >> 16)
#define REVISION_X 0x2001u
#define REVISION_V 0x2003u
#define FN_MOD_ONE_READ_AT_A_TIME 1u

static void stop_pll(void)
{
    change(RCC_CR, CR_HSION | CR_HSIDIV_MASK, CR_HSION);
    change(RCC_CFGR, CFGR_SW_MASK, 0);
    wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_HSI);
    change(RCC_CR, CR_PLL1ON, 0);
    wait_for(RCC_CR, CR_PLL1RDY, 0);
    REGISTER(RCC_D1CFGR) = 0;
    REGISTER(RCC_D2CFGR) = 0;
    REGISTER(RCC_D3CFGR) = 0;
}

static bool is_before(uint32_t revision)
{
    return IDC_REVISION(REGISTER(DBGMCU_IDC)) < revision;
}

/* The supply has to be named once after power-on, or the voltage stays as it is: the LDO, as on every Nucleo. */
static bool raise_voltage(void)
{
    change(PWR_CR3, CR3_MASK, CR3_LDO);
    if (!wait_for(PWR_CSR1, CSR1_ACTVOSRDY, CSR1_ACTVOSRDY))
        return false;
    change(PWR_D3CR, D3CR_VOS_MASK, D3CR_VOS1);
    if (!wait_for(PWR_D3CR, D3CR_VOSRDY, D3CR_VOSRDY))
        return false;
    if (is_before(REVISION_V))
        return true;
    enable(RCC_APB4ENR, APB4ENR_SYSCFGEN);
    change(SYSCFG_PWRCR, PWRCR_ODEN, PWRCR_ODEN); /* from scale 1 to 0 */
    return wait_for(PWR_D3CR, D3CR_VOSRDY, D3CR_VOSRDY);
}

static bool start_pll(void)
{
    if (!raise_voltage())
        return false;
    change(RCC_PLLCKSELR, PLLCKSELR_MASK, PLLCKSELR_DIVM1);
    change(RCC_PLLCFGR, PLLCFGR_PLL1_MASK, PLLCFGR_PLL1);
    REGISTER(RCC_PLL1DIVR) = is_before(REVISION_V) ? PLL1DIVR(OLD_HZ) : PLL1DIVR(CORE_HZ);
    change(RCC_CR, CR_PLL1ON, CR_PLL1ON);
    if (!wait_for(RCC_CR, CR_PLL1RDY, CR_PLL1RDY))
        return false;
    change(FLASH_ACR, ACR_MASK, ACR_4_WAIT_STATES);
    if (!wait_for(FLASH_ACR, ACR_MASK, ACR_4_WAIT_STATES))
        return false;
    REGISTER(RCC_D1CFGR) = D1CFGR_DIVIDERS;
    REGISTER(RCC_D2CFGR) = D2CFGR_DIVIDERS;
    REGISTER(RCC_D3CFGR) = D3CFGR_DIVIDERS;
    change(RCC_CFGR, CFGR_SW_MASK, CFGR_SW_PLL1);
    return wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_PLL1);
}

struct clocks chip_init(void)
{
    if (is_before(REVISION_X))
        REGISTER(AXI_TARG7_FN_MOD) = FN_MOD_ONE_READ_AT_A_TIME; /* else reads of AXI SRAM may be corrupt */
    const uint32_t hz = is_before(REVISION_V) ? OLD_HZ : CORE_HZ;
    const struct clocks full = {.core_hz = hz, .uart_hz = hz / 4u}; /* the kernel clock is APB's, reset's choice */
    const struct clocks clocks = start_clocks(stop_pll, start_pll, full, HSI_HZ);
    caches_on();
    connect_uart(GPIOA, RCC_AHB4ENR);
    return clocks;
}
