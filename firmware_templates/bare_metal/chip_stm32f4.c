/* STM32F405/407 (ST RM0090) and F446 (RM0390): 168 MHz from the internal oscillator, USART2 on PA2 and PA3.
 * Where the PLL does not come up (QEMU models no RCC) everything stays on the 16 MHz of HSI. */
#include <stdbool.h>

#include "board.h"
#include "chip.h"
#include "cortex_m.h"

#define RCC_CR REGISTER(0x40023800u)
#define RCC_PLLCFGR REGISTER(0x40023804u)
#define RCC_CFGR REGISTER(0x40023808u)
#define RCC_AHB1ENR REGISTER(0x40023830u)
#define RCC_APB1ENR REGISTER(0x40023840u)
#define FLASH_ACR REGISTER(0x40023C00u)
#define GPIOA_MODER REGISTER(0x40020000u)
#define GPIOA_PUPDR REGISTER(0x4002000Cu)
#define GPIOA_AFRL REGISTER(0x40020020u)

#define HSI_HZ 16000000u
#define PLL_HZ 168000000u

#define CR_PLLON (1u << 24)
#define CR_PLLRDY (1u << 25)
/* HSI / 8 = 2 MHz in, times 168 = 336 MHz, / 2 = 168 MHz; Q = 7 keeps the unused 48 MHz output at 48 MHz; R = 2 (F446). */
#define PLLCFGR_168MHZ (8u | 168u << 6 | 0u << 16 | 7u << 24 | 2u << 28)
#define CFGR_APB1_DIV4 (5u << 10) /* 42 MHz */
#define CFGR_APB2_DIV2 (4u << 13) /* 84 MHz */
#define CFGR_SW_PLL 2u
#define CFGR_SWS_MASK (3u << 2)
#define CFGR_SWS_PLL (2u << 2)
#define ACR_5_WAIT_STATES 5u /* 150 to 168 MHz at 2.7 V and above */
#define ACR_LATENCY_MASK 15u
#define ACR_PREFETCH_AND_CACHES (7u << 8)

static bool wait_for(volatile const uint32_t *address, uint32_t mask, uint32_t value)
{
    for (uint32_t i = 0; i < WAIT_LIMIT; ++i)
        if ((*address & mask) == value)
            return true;
    return false;
}

/* The regulator's reset state (scale 1) is the one that 168 MHz asks for. */
static bool start_pll(void)
{
    RCC_PLLCFGR = PLLCFGR_168MHZ;
    RCC_CR = RCC_CR | CR_PLLON;
    if (!wait_for(&RCC_CR, CR_PLLRDY, CR_PLLRDY))
        return false;
    FLASH_ACR = ACR_PREFETCH_AND_CACHES | ACR_5_WAIT_STATES;
    if (!wait_for(&FLASH_ACR, ACR_LATENCY_MASK, ACR_5_WAIT_STATES))
        return false;
    RCC_CFGR = CFGR_APB1_DIV4 | CFGR_APB2_DIV2 | CFGR_SW_PLL;
    return wait_for(&RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_PLL);
}

struct clocks chip_init(void)
{
    struct clocks clocks = {.core_hz = PLL_HZ, .uart_hz = PLL_HZ / 4u};
    if (!start_pll()) {
        RCC_CFGR = 0;
        clocks.core_hz = clocks.uart_hz = HSI_HZ;
    }
    RCC_AHB1ENR = RCC_AHB1ENR | 1u << 0;  /* GPIOA */
    RCC_APB1ENR = RCC_APB1ENR | 1u << 17; /* USART2 */
    (void)RCC_APB1ENR;                    /* two bus clocks pass before the peripheral answers */
    GPIOA_AFRL = (GPIOA_AFRL & ~0xFF00u) | 0x7700u;     /* AF7 */
    GPIOA_PUPDR = (GPIOA_PUPDR & ~0xF0u) | 0x50u;       /* pull-ups: an unconnected line is idle */
    GPIOA_MODER = (GPIOA_MODER & ~0xF0u) | 0xA0u;       /* alternate function */
    return clocks;
}
