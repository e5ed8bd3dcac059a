/* Clocks of STM32F4 and F7, whose RCC and PWR are alike (ST RM0090, RM0390, RM0385): CORE_HZ from the internal oscillator. The chip's
 * file defines PLL_Q, OVERDRIVE_HZ (above it the regulator needs over-drive), WAIT_STATES and FLASH_ACR_ON (caches, prefetch). */
#ifndef STM32_RCC_F4_H
#define STM32_RCC_F4_H

#include "stm32_gpio.h"

#define RCC_CR 0x40023800u
#define RCC_PLLCFGR 0x40023804u
#define RCC_CFGR 0x40023808u
#define RCC_AHB1ENR 0x40023830u
#define RCC_APB1ENR 0x40023840u
#define FLASH_ACR 0x40023C00u
#define PWR_CR 0x40007000u
#define PWR_CSR 0x40007004u
#define GPIOA 0x40020000u

#define HSI_HZ 16000000u

#define CR_HSION (1u << 0)
#define CR_PLLON (1u << 24)
#define CR_PLLRDY (1u << 25)
/* HSI / 8 = 2 MHz in, times N = 2 CORE_HZ, P: / 2; Q keeps the unused 48 MHz output at most at that; R = 2 (F446). */
#define PLLCFGR_CORE_HZ (8u | CORE_HZ / 1000000u << 6 | 0u << 16 | PLL_Q << 24 | 2u << 28)
#define CFGR_APB1_DIV4 (5u << 10)
#define CFGR_APB2_DIV2 (4u << 13)
#define CFGR_SW_PLL 2u
#define CFGR_SWS_MASK (3u << 2)
#define CFGR_SWS_HSI (0u << 2)
#define CFGR_SWS_PLL (2u << 2)
#define ACR_LATENCY_MASK 15u
#define APB1ENR_PWREN 28u
#define CR_ODEN (1u << 16)
#define CR_ODSWEN (1u << 17)
#define CSR_ODRDY (1u << 16)
#define CSR_ODSWRDY (1u << 17)

static void stop_pll(void)
{
    change(RCC_CR, CR_HSION, CR_HSION);
    REGISTER(RCC_CFGR) = 0;
    wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_HSI);
    change(RCC_CR, CR_PLLON, 0);
    wait_for(RCC_CR, CR_PLLRDY, 0);
}

/* Between the PLL's start and the switch to it (RM0390 5.1.4, RM0385 4.1.4). */
static bool start_overdrive(void)
{
    enable(RCC_APB1ENR, APB1ENR_PWREN);
    change(PWR_CR, CR_ODEN, CR_ODEN);
    if (!wait_for(PWR_CSR, CSR_ODRDY, CSR_ODRDY))
        return false;
    change(PWR_CR, CR_ODSWEN, CR_ODSWEN);
    return wait_for(PWR_CSR, CSR_ODSWRDY, CSR_ODSWRDY);
}

/* The regulator's reset state (scale 1) is the one that full speed asks for. */
static bool start_pll(void)
{
    REGISTER(RCC_PLLCFGR) = PLLCFGR_CORE_HZ;
    change(RCC_CR, CR_PLLON, CR_PLLON);
    if (!wait_for(RCC_CR, CR_PLLRDY, CR_PLLRDY))
        return false;
    if (CORE_HZ > OVERDRIVE_HZ && !start_overdrive())
        return false;
    REGISTER(FLASH_ACR) = FLASH_ACR_ON | WAIT_STATES;
    if (!wait_for(FLASH_ACR, ACR_LATENCY_MASK, WAIT_STATES))
        return false;
    REGISTER(RCC_CFGR) = CFGR_APB1_DIV4 | CFGR_APB2_DIV2 | CFGR_SW_PLL;
    return wait_for(RCC_CFGR, CFGR_SWS_MASK, CFGR_SWS_PLL);
}

static inline struct clocks start_f4(void)
{
    const struct clocks full = {.core_hz = CORE_HZ, .uart_hz = UART_BASE < APB2_BASE ? CORE_HZ / 4u : CORE_HZ / 2u};
    const struct clocks clocks = start_clocks(stop_pll, start_pll, full, HSI_HZ);
    connect_uart(GPIOA, RCC_AHB1ENR);
    return clocks;
}

#endif
